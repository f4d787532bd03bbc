"""Reconstruct inside a program of your own: one bundle, loaded once, run on any number of scans.

    python reconstruct.py scan.h5 [more.h5 …]

Each slice arrives as soon as it is finished, with its checks: what is not the model's image says
why in `fallback`.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from ldmpir_edge.reconstruct import load
from ldmpir_edge.scans.detect import open_scan


def main(paths: list[Path]) -> None:
    """Print a line for each slice of each scan."""
    reconstructor = load("ldmpir-2m")
    for path in paths:
        with open_scan(path) as scan, closing(reconstructor.stream(scan)) as slices:
            for piece in slices:
                # piece.image is (H, W) float32: magnitude for MRI, Hounsfield units for CT.
                print(  # noqa: T201 - that is what the example is for
                    f"{path.name} slice {piece.index}: {piece.image.shape[0]}x"
                    f"{piece.image.shape[1]}, mean {piece.image.mean():.4g}, "
                    f"residual {piece.checks['residual'] or 0:.3f}, "
                    f"{'classical: ' + piece.fallback if piece.fallback else 'model'}"
                )
    reconstructor.close()


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
