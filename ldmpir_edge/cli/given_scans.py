"""Scans that the user of `finetune` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ldmpir_edge.cli.export import ZOO

if TYPE_CHECKING:
    from ldmpir_edge.finetuning.recipe import Loss
    from ldmpir_edge.finetuning.scans import SiteScans

OnStep = Callable[[str, int, int | None], None]
"""Called with what is being done, and the steps done and in all, where that is known."""


class GivenScans:
    """Scans that the user names, and the bundle to make of them.

    Attributes
    ----------
    output, precision
        The bundle, and what it holds unless told otherwise.
    """

    precision = "fp32"

    def __init__(self, paths: Sequence[Path], output: Path) -> None:
        self._paths, self.output = paths, output

    def base_folder(self, named: str | None) -> Path:
        """Find the folder of the base: `ldmpir-2m` unless another is named."""
        return base_folder(named or "ldmpir-2m")

    def hold(self) -> AbstractContextManager[None]:
        """Keep nobody off: the output is the user's."""
        return nullcontext()

    def scans(self, loss: Loss, noise_level: float | None, on_step: OnStep) -> SiteScans:
        """Read the scans; as `load_scans`."""
        from ldmpir_edge.finetuning.scans import load_scans

        return load_scans(self._paths, loss, noise_level)

    def wait(self, on_wait: Callable[[int], None]) -> None:
        """Go on at once: nobody else's work is known of."""

    def end(self) -> None:
        """Leave everything to the user."""


def base_folder(base: str) -> Path:
    """Answer the folder of a base: itself, or the one of this name in models/."""
    return Path(base) if Path(base).is_dir() else ZOO / base
