"""Compare two images: fail where they differ by more than 1e-4 of the brightest value.

python tests/system/arm64/compare.py EXPECTED.npy ACTUAL.npy
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

LIMIT = 1e-4


def main(expected_path: Path, actual_path: Path) -> int:
    expected, actual = np.load(expected_path), np.load(actual_path)
    if expected.shape != actual.shape or not np.isfinite(actual).all():
        sys.stdout.write(f"{actual_path}: {actual.shape}, finite {np.isfinite(actual).all()}\n")
        return 1
    difference = float(np.abs(actual - expected).max() / np.abs(expected).max())
    verdict = "same" if difference <= LIMIT else "DIFFERENT"
    sys.stdout.write(f"{actual_path.name} {expected.shape}: {difference:.1e}, {verdict}\n")
    return int(difference > LIMIT)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
