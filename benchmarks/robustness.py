"""Sweep each quantity of a scan past the range that the network was trained on.

    python benchmarks/robustness.py [--bundle ldmpir-2m] [--backend openvino] [-o results.json]

Held-out slices, simulated and prepared as by `quality.py`; of each sweep one quantity changes, and
coils, phase and noise are drawn alike. Then `quality.CASES` on anatomy that no training
image shows: a chest in MRI, a head in CT. Without ../shared/data the slices are of the generated
phantom, and the anatomy is skipped.

"Inside" is the range that `ldmpir_edge/training` draws from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import quality
from product import Outcome, Product, arguments, marks, write
from scipy import ndimage
from skimage.transform import resize

from ldmpir_edge.physics.noise import add_gaussian
from ldmpir_edge.physics.problem import Modality

Make = Callable[[np.ndarray, Modality, np.random.Generator], quality.Case]
BASE_NOISE = 0.01
"""What `quality.mri` puts into k-space, over the image's 99.5th percentile."""
OUTSIDE = {"mr": ("mri", "seg3d-thorax.npz"), "ct": ("ct", "ge-head.npz")}


@dataclass(frozen=True)
class Setting:
    """One value of the quantity that is swept."""

    inside: bool
    make: Make


@dataclass(frozen=True)
class Sweep:
    """A quantity, as an axis is labelled, and its values in order."""

    quantity: str
    modality: Modality
    settings: dict[str, Setting]


def of_image(change: Callable[[np.ndarray], np.ndarray]) -> Make:
    """Make the case of 8 coils at R = 4 of a changed image."""
    make = quality.mri(8, 4, "equispaced")
    return lambda image, modality, rng: make(change(image), modality, rng)


def noisier(noise_level: float) -> Make:
    """Make the case of 8 coils at R = 4 with more noise than `BASE_NOISE`."""
    make = quality.mri(8, 4, "equispaced")
    more = np.sqrt(noise_level**2 - BASE_NOISE**2)

    def noisy(image: np.ndarray, modality: Modality, rng: np.random.Generator) -> quality.Case:
        scan, task, reference = make(image, modality, rng)
        samples = scan.mask * add_gaussian(scan.samples, more, rng)
        return replace(scan, samples=samples.astype(np.complex64)), task, reference

    return noisy


def resized(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Resample to `size` pixels a side: the object fills the same part of it."""
    return lambda image: np.maximum(
        resize(image, (size, size), order=3, anti_aliasing=size < image.shape[0]), 0
    )


def rotated(degrees: float) -> Callable[[np.ndarray], np.ndarray]:
    """Turn counter-clockwise about the middle."""
    return lambda image: np.maximum(ndimage.rotate(image, degrees, reshape=False, order=3), 0)


def bent(power: float) -> Callable[[np.ndarray], np.ndarray]:
    """Bend the intensity curve: above 1 what is bright stands out, below 1 all is alike."""
    return lambda image: (image / image.max()) ** power


def inverted(image: np.ndarray) -> np.ndarray:
    """Turn dark tissue bright and bright tissue dark, the background left dark."""
    x = np.clip(image / np.percentile(image, 99.5), 0, 1)
    inside = ndimage.gaussian_filter((ndimage.gaussian_filter(x, 1) > 0.05).astype(np.float32), 1)
    return inside * (1.05 - x)


SWEEPS = {
    "acceleration": Sweep(
        "acceleration, 8 coils",
        "mr",
        {
            f"{r}": Setting(2 <= r <= 10, quality.mri(8, r, "equispaced"))
            for r in (1, 2, 4, 6, 8, 10, 12, 16)
        },
    ),
    "coils": Sweep(
        "coils, R = 4",
        "mr",
        {
            f"{n}": Setting(n in (1, 4, 6, 8), quality.mri(n, 4, "equispaced"))
            for n in (1, 2, 4, 8, 16, 32)
        },
    ),
    "noise": Sweep(
        "noise level of k-space, R = 4",
        "mr",
        {
            f"{level:g}": Setting(level <= 0.05, noisier(level))
            for level in (0.01, 0.02, 0.05, 0.1, 0.2)
        },
    ),
    "size": Sweep(
        "pixels a side, R = 4",
        "mr",
        {
            f"{n}": Setting(192 <= n <= 256, of_image(resized(n)))
            for n in (96, 128, 192, 256, 320, 384)
        },
    ),
    "orientation": Sweep(
        "turned by (degrees), R = 4",
        "mr",
        {
            f"{a}": Setting(a in (0, 15, 90, 180), of_image(rotated(a)))
            for a in (0, 15, 30, 45, 90, 180)
        },
    ),
    "contrast": Sweep(
        "intensity curve, R = 4",
        "mr",
        {
            "power 0.3": Setting(False, of_image(bent(0.3))),
            "power 0.6": Setting(True, of_image(bent(0.6))),
            "as it is": Setting(True, of_image(bent(1))),
            "power 1.6": Setting(True, of_image(bent(1.6))),
            "power 3": Setting(False, of_image(bent(3))),
            "inverted": Setting(False, of_image(inverted)),
        },
    ),
    "views": Sweep(
        "CT views, parallel beam",
        "ct",
        {
            f"{n}": Setting(40 <= n <= 240, quality.ct(n, 1e6))
            for n in (20, 30, 40, 60, 120, 240, 360)
        },
    ),
    "photons": Sweep(
        "photons a ray, 180 views",
        "ct",
        {
            f"{n:.0e}".replace("e+0", "e"): Setting(n >= 8e3, quality.ct(180, n))
            for n in (1e3, 3e3, 1e4, 1e5, 1e6)
        },
    ),
}


def unseen_anatomy(modality: Modality, n: int) -> Iterator[np.ndarray]:
    """Yield `n` slices, evenly spaced, of the set kept out of distribution on purpose."""
    folder, name = OUTSIDE[modality]
    stack = np.load(quality.DATA / folder / "test" / name)["slices"]
    for k in range(n):
        image = stack[int((0.2 + 0.6 * (k + 0.5) / n) * len(stack))].astype(np.float32)
        # The chest has 640 pixels a side, of which quality.py's MR cases are to see 256.
        yield resized(quality.SIZE)(image).astype(np.float32) if modality == "mr" else image


def reconstruct(
    product: Product, make: Make, modality: Modality, images: list[np.ndarray], seed: list[int]
) -> list[Outcome]:
    """Acquire and reconstruct each image, with the same draws for the same seed."""
    return [
        product(make(image, modality, np.random.default_rng([*seed, k])))
        for k, image in enumerate(images)
    ]


def main() -> None:
    args = arguments(__doc__.splitlines()[0], 3)
    product = Product(args.bundle, args.backend)
    images = {m: list(quality.images(m, args.slices)) for m in ("mr", "ct")}
    sweeps: dict[str, Any] = {}
    for number, (name, sweep) in enumerate(SWEEPS.items()):
        rows: dict[str, Any] = {}
        for value, setting in sweep.settings.items():
            outcomes = reconstruct(
                product, setting.make, sweep.modality, images[sweep.modality], [args.seed, number]
            )
            rows[value] = {"inside": setting.inside, **marks(outcomes, sweep.modality)}
            report(f"{name} {value}", rows[value])
        sweeps[name] = {"quantity": sweep.quantity, "settings": rows}
    anatomy: dict[str, Any] = {}
    if quality.DATA.exists():
        for number, (name, (modality, make)) in enumerate(quality.CASES.items()):
            unseen = list(unseen_anatomy(modality, args.slices))
            anatomy[name] = {}
            for kind, slices in (("seen", images[modality]), ("unseen", unseen)):
                seed = [args.seed, len(SWEEPS) + number]
                outcomes = reconstruct(product, make, modality, slices, seed)
                anatomy[name][kind] = marks(outcomes, modality)
                report(f"{name}, {kind}", anatomy[name][kind])
    else:
        print("unseen anatomy: skipped, for there is no ../shared/data")
    write("robustness", args, product, {"sweeps": sweeps, "anatomy": anatomy})


def report(name: str, row: dict[str, Any]) -> None:
    """Print one line of what `marks` returned."""
    cells = (
        f"{method} {np.mean(row[method]['psnr_db']):.2f} dB {np.mean(row[method]['ssim']):.3f}"
        for method in ("classical", "ours")
    )
    print(f"{name:40s} {'   '.join(cells)}   refused {row['refused']}", flush=True)


if __name__ == "__main__":
    main()
