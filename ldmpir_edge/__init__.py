"""ldmpir-edge: run a learned MRI and CT reconstruction beside the scanner.

>>> import ldmpir_edge
>>> reconstruct = ldmpir_edge.load("ldmpir-2m")  # doctest: +SKIP
>>> result = reconstruct("scan.h5")  # doctest: +SKIP
>>> result.image.shape  # doctest: +SKIP
(3, 256, 256)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldmpir_edge.reconstruct import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Importing the package must stay cheap for the command line's --help.
    if name == "load":
        from ldmpir_edge.reconstruct import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
