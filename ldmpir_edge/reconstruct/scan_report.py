"""Collect what a report shows of one scan, slice by slice as it is reconstructed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldmpir_edge.errors import UsageError
from ldmpir_edge.physics.problem import Task
from ldmpir_edge.reconstruct.checks import unexplained
from ldmpir_edge.reconstruct.reconstructor import Reconstructor
from ldmpir_edge.reconstruct.report_parts import (
    MEASURED,
    RANGES,
    ColourScale,
    Image,
    measured_caption,
    score_caption,
    score_images,
)
from ldmpir_edge.reconstruct.slices import FinishedSlice
from ldmpir_edge.report.html import Page, PageSlice, Panel, Table, pack
from ldmpir_edge.report.metrics import ImageScores
from ldmpir_edge.scans.model import Scan
from ldmpir_edge.scans.reconstruction import Provenance, VolumeHeader
from ldmpir_edge.scans.writers.window import WindowSample

MAX_PIXELS = 2**21
"""Pixels of one kind of image that a page holds, of all slices: with all kinds 25 to 35 MB."""

HEADINGS: dict[Task, str] = {
    "mri": "Zero-filled",
    "ct": "Filtered back-projection",
    "denoise": "Input",
    "inpaint": "Input, filled in",
    "super-resolve": "Input, interpolated",
}
CLASSICAL: dict[Task, str] = {
    "mri": "CG-SENSE",
    "ct": "Total variation",
    "denoise": "Non-local means",
    "inpaint": "Biharmonic",
    "super-resolve": "Total variation",
}
"""Shown where it is another image than the untreated one."""
OURS = "LDM-PIR"
SCORED = ("unreconstructed", "classical", "ours")


def spread_slices(shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Choose the slices of a volume `(slices, H, W)` that a page shows: all, or evenly spread."""
    n_slices, height, width = shape
    n_shown = min(n_slices, max(1, MAX_PIXELS // (height * width)))
    return tuple(int((place + 0.5) * n_slices / n_shown) for place in range(n_shown))


def check_fits(wanted: Sequence[int], shape: tuple[int, int, int]) -> None:
    """Refuse more slices of a volume `(slices, H, W)` than a page holds.

    Raises
    ------
    UsageError
        The message says how many there may be.
    """
    _, height, width = shape
    n_most = max(1, MAX_PIXELS // (height * width))
    if len(wanted) > n_most:
        raise UsageError(
            f"a report holds {n_most} slices of {height} × {width} pixels, not {len(wanted)}; "
            "name fewer"
        )


class ScanReport:
    """What a page will show of a scan that is being reconstructed.

    Parameters
    ----------
    scan
        Open as long as slices are observed.
    header
        Of the reconstruction: `Reconstructor.header`.
    shown
        Slices whose images are kept; of the others only the checks are.
    n_samples
        How many samples the deviation of a slice comes from; 0 for none.
    """

    def __init__(
        self, scan: Scan, header: VolumeHeader, shown: Sequence[int], n_samples: int = 0
    ) -> None:
        self._scan, self._header, self._n_samples = scan, header, n_samples
        self._shown = frozenset(shown)
        self._window = WindowSample(len(shown))
        self._slices: list[PageSlice] = []
        self._colours = ColourScale()
        self._checks: list[tuple[str, ...]] = []
        self._fallbacks: list[int] = []
        self._notes: dict[str, None] = dict.fromkeys(header.notes)
        self._provenance: Provenance | None = None

    def observe(self, finished: FinishedSlice) -> None:
        """Take a finished slice: for `Reconstructor.stream`.

        Raises
        ------
        ScanDataError
            The scan's own reference cannot be used.
        """
        piece = finished.piece
        self._provenance = piece.provenance
        self._notes.update(dict.fromkeys(piece.notes))
        scores: dict[str, ImageScores] = {}
        if piece.index in self._shown:
            images = _images(finished)
            reference = self._scan.reference(piece.index)
            if reference is not None:
                images["reference"] = reference
                modality = self._header.info.modality
                scores = score_images(images, SCORED, reference, modality)
            self._add(finished, images, scores)
        if piece.fallback is not None:
            self._fallbacks.append(piece.index)
        self._checks.append(_check_row(piece.index, piece.checks, scores.get("ours")))

    def page(self, reconstructor: Reconstructor, seconds: Mapping[str, float]) -> Page:
        """Make the page, when the last slice was observed.

        Parameters
        ----------
        reconstructor
            The one that reconstructs the scan.
        seconds
            By stage.

        Raises
        ------
        UsageError
            No slice was shown.
        """
        if not self._slices or self._provenance is None:
            raise UsageError("no slice was reconstructed; there is nothing to report")
        modality = self._header.info.modality
        window = self._window.window(modality)
        keys = {key for piece in self._slices for key in piece.images}
        gain, magnified = self._colours.choose(window[1] - window[0])
        return Page(
            title=self._scan.path.resolve().name,
            subtitle=self._subtitle(reconstructor),
            software=f"ldmpir-edge {self._provenance.software_version}",
            unit="HU" if modality == "ct" else "",
            window=window,
            gain=gain,
            pixel_spacing_mm=self._header.info.pixel_spacing_mm,
            panels=_panels(keys, self._provenance.task, magnified),
            slices=self._slices,
            flicker=("ours", "classical" if "classical" in keys else "unreconstructed"),
            warnings=self._warnings(reconstructor),
            tables=(
                self._check_table(),
                _timing_table(seconds, len(self._checks)),
                self._provenance_table(reconstructor, self._provenance),
            ),
        )

    def _add(
        self, finished: FinishedSlice, images: dict[str, Image], scores: Mapping[str, ImageScores]
    ) -> None:
        piece = finished.piece
        self._window.add(images.get("reference", piece.image))
        # The first sets the colours: the error, where there is a reference to tell it.
        if "reference" in images:
            self._colours.add("error", np.abs(images["ours"] - images["reference"]))
        for key in ("deviation", "residual"):
            if key in images:
                self._colours.add(key, images[key])
        captions = {key: score_caption(found) for key, found in scores.items()}
        residual = piece.checks["residual"]
        if piece.fallback is not None:
            residual = piece.checks["residual_classical"]
            captions["ours"] = "the classical image"
        captions["residual"] = f"{residual:.4f} of the data"
        captions["deviation"] = f"{self._n_samples} samples"
        captions["measured"] = measured_caption(finished.prepared)
        warning = piece.fallback and f"The classical image is delivered, since {piece.fallback}."
        packed = {key: pack(image) for key, image in images.items()}
        self._slices.append(PageSlice(piece.index, packed, captions, warning or ""))

    def _subtitle(self, reconstructor: Reconstructor) -> str:
        n_slices, height, width = self._header.shape
        shown = f"{len(self._slices)} of {n_slices} slices" if n_slices > 1 else "1 slice"
        return (
            f"{shown}, {height} × {width}: {reconstructor.bundle.manifest.model.id}, "
            f"{reconstructor.n_steps} steps, {reconstructor.precision}, {reconstructor.backend}"
        )

    def _warnings(self, reconstructor: Reconstructor) -> list[str]:
        found = []
        if self._fallbacks:
            found.append(
                f"{len(self._fallbacks)} of {len(self._checks)} slices are the classical image: "
                f"{', '.join(map(str, self._fallbacks))}. The checks below say why."
            )
        if not reconstructor.bundle.manifest.verified:
            found.append("The bundle was exported without its gate: nobody checked its images.")
        return found

    def _check_table(self) -> Table:
        notes = [
            "Residual: ‖b − AᴴA x‖ / ‖b‖, of the engine's image and of the classical one. Largest "
            "value and noise: in engine units, where the bright end of the scan is about 1."
        ]
        if any(row[-3] for row in self._checks):
            notes.append(RANGES[self._header.info.modality])
        if len(self._slices) < self._header.n_slices:
            notes.append(
                f"Images are shown of {len(self._slices)} of {self._header.n_slices} slices; "
                "--slices of ldmpir-edge report chooses others."
            )
        columns = (
            *("slice", "finite", "largest value", "residual", "of the classical image", "noise"),
            *("PSNR, dB", "SSIM", "delivered"),
        )
        return Table("Checks", columns, self._checks, (*notes, *self._notes))

    def _provenance_table(self, reconstructor: Reconstructor, made: Provenance) -> Table:
        model = reconstructor.bundle.manifest.model
        rows = [
            ("Input", f"{self._scan.path.resolve().name}, {self._scan.n_slices} slices"),
            ("SHA-256 of the input", made.input_sha256),
            ("Task", made.purpose),
            ("Bundle", f"{made.bundle_name} {model.version}, {reconstructor.bundle.trust}"),
            ("SHA-256 of the bundle", made.bundle_sha256),
            ("Engine", reconstructor.reason),
            ("Precision", made.precision),
            ("Sampler", f"{made.n_steps} steps, {_sampling(made.seed, self._n_samples)}"),
            ("Software", f"ldmpir-edge {made.software_version}"),
            ("Made", made.created.isoformat(timespec="seconds")),
        ]
        return Table("Provenance", ("", ""), rows)


def _images(finished: FinishedSlice) -> dict[str, Image]:
    """Give the images of a slice on the scan's scale, by the key of their panel."""
    prepared = finished.prepared
    problem, to_scan = prepared.problem, prepared.to_scan
    images = {"unreconstructed": to_scan(prepared.unreconstructed)}
    if prepared.unreconstructed is not problem.x1:
        images["classical"] = to_scan(problem.x1)
    images["ours"] = finished.piece.image
    if finished.deviation is not None:
        images["deviation"] = finished.deviation
    # The way to the scan is linear but for its offset, which is no part of a difference.
    left = np.abs(unexplained(problem, finished.planes))
    images["residual"] = to_scan(left) - to_scan(np.zeros_like(left))
    if prepared.measured is not None:
        images["measured"] = prepared.measured
    return images


def _panels(keys: set[str], task: Task, magnified: Mapping[str, int]) -> list[Panel]:
    headings = {
        "unreconstructed": HEADINGS[task],
        "classical": CLASSICAL[task],
        "ours": OURS,
    }
    images = {key: heading for key, heading in headings.items() if key in keys}
    panels = [Panel(key, heading, "grey") for key, heading in images.items()]
    if "reference" in keys:
        panels.append(Panel("reference", "Reference", "grey"))
    if "measured" in keys:
        panels.append(Panel("measured", MEASURED[task], "own"))
    if "reference" in keys:
        panels += [
            Panel(f"error-{key}", f"Error, {heading}", "colour", (key, "reference"))
            for key, heading in images.items()
        ]
    if "deviation" in keys:
        panels.append(Panel("deviation", "Uncertainty", "colour", magnified=magnified["deviation"]))
    panels.append(Panel("residual", "Data residual", "colour", magnified=magnified["residual"]))
    return panels


def _check_row(
    index: int, checks: Mapping[str, Any], scores: ImageScores | None
) -> tuple[str, ...]:
    def text(name: str, form: str) -> str:
        return "" if checks[name] is None else format(checks[name], form)

    return (
        str(index),
        "yes" if checks["finite"] else "no",
        text("max_value", ".3g"),
        text("residual", ".4f"),
        text("residual_classical", ".4f"),
        text("noise_level", ".2g"),
        "" if scores is None else f"{scores.psnr:.2f}",
        "" if scores is None else f"{scores.ssim:.4f}",
        f"classical: {checks['fallback']}" if checks["fallback"] else "model",
    )


def _timing_table(seconds: Mapping[str, float], n_slices: int) -> Table:
    rows = [(stage, f"{spent:.2f}", f"{spent / n_slices:.3f}") for stage, spent in seconds.items()]
    notes = ("Stages overlap: they add up to more than wall, the clock's time.",)
    return Table("Time", ("stage", "seconds", "a slice"), rows, notes)


def _sampling(seed: int | None, n_samples: int) -> str:
    text = "the deterministic mean" if seed is None else f"the sample of seed {seed}"
    if n_samples:
        text += f"; uncertainty from {n_samples} samples with noise in the first step"
    return text
