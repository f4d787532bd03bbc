"""Make the README's picture: a held-out slice at R = 4 through the shipped bundle.

    python benchmarks/readme_figure.py [-o docs/images/mri-r4.png]

Needs ../shared/data; the slice is of TCIA Brain-Tumor-Progression
(doi:10.7937/K9/TCIA.2018.15quzvnb).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from quality import DATA, mri

import ldmpir_edge
from ldmpir_edge.report.figure import comparison_figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/mri-r4.png"))
    args = parser.parse_args()
    image = np.load(DATA / "mri/test/btp10-post.npz")["slices"][10].astype(np.float32)
    scan, _, reference = mri(8, 4, "equispaced")(image, "mr", np.random.default_rng(0))
    reconstruct = ldmpir_edge.load("ldmpir-2m")
    result = reconstruct(scan)
    if reconstruct.comparison is None:
        raise SystemExit("the scan has no slice")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    comparison_figure(
        args.output,
        reconstruct.comparison.unreconstructed,
        result.image[0],
        reference,
        "Held-out brain slice, 8 coils, R = 4: 4 steps, fp32",
        "mr",
    )


if __name__ == "__main__":
    main()
