"""The page of two reconstructions of the same slices."""

from __future__ import annotations

from datetime import datetime

import numpy as np

import ldmpir_edge
from ldmpir_edge.reconstruct.pair import Pair
from ldmpir_edge.reconstruct.report_parts import (
    MEASURED,
    RANGES,
    ColourScale,
    Image,
    measured_caption,
    score_caption,
    score_images,
)
from ldmpir_edge.report.html import Page, PageSlice, Panel, Table, pack
from ldmpir_edge.scans.display import display_window
from ldmpir_edge.scans.model import Scan

KEYS = ("first", "second")
COLUMNS = ("", "engine", "precision", "PSNR, dB", "SSIM", "residual", "s a slice")


def pair_page(pair: Pair, scan: Scan, created: datetime) -> Page:
    """Make the page of a pair: both, the reference, and what sets them apart.

    Parameters
    ----------
    pair
        The two.
    scan
        The one that they were made of, still open.
    created
        The date that the page bears.
    """
    slices, colours = pair.slices, ColourScale()
    pieces = [_add(pair, place, colours) for place in range(len(slices.indices))]
    truth = slices.references if slices.references is not None else pair.runs[0].images
    window = display_window(truth, slices.modality)
    gain, magnified = colours.choose(window[1] - window[0])
    first, second = pair.contenders
    which = ", ".join(map(str, slices.indices))
    return Page(
        title=f"{first.name} and {second.name}",
        subtitle=f"{scan.path.resolve().name}, slices {which} of {scan.n_slices}: {slices.task}",
        software=f"ldmpir-edge {ldmpir_edge.__version__}",
        unit="HU" if slices.modality == "ct" else "",
        window=window,
        gain=gain,
        pixel_spacing_mm=scan.info.pixel_spacing_mm,
        panels=_panels(pair, magnified),
        slices=pieces,
        flicker=KEYS,
        warnings=[
            f"{side.name}: {result.reason}"
            for side, result in zip(pair.contenders, pair.results, strict=True)
            if result.reason
        ],
        tables=(_comparison_table(pair), _provenance_table(pair, scan, created)),
    )


def comparison_rows(pair: Pair, names: tuple[str, str]) -> list[tuple[str, ...]]:
    """Give a row for each of the two, called so, under `COLUMNS`."""
    return [
        (
            name,
            result.backend,
            result.precision,
            _number(result.reference_psnr_db, ".2f"),
            _number(result.reference_ssim, ".4f"),
            _number(result.residual, ".4f"),
            _number(result.seconds, ".3f"),
        )
        for name, result in zip(names, pair.results, strict=True)
    ]


def describe_difference(pair: Pair) -> str:
    """Say how far the second is from the first, in one sentence."""
    second = pair.results[1]
    apart = second.difference
    if apart is None or second.is_equal:
        return "The images are equal, bit for bit."
    return (
        f"Beside the first the second has PSNR {_number(second.psnr_db, '.2f')} dB and SSIM "
        f"{_number(second.ssim, '.4f')}; the largest difference is {apart.max_abs:.1e} of the "
        f"bright end, and 99.9 % are below {apart.p999_abs:.1e}."
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _add(pair: Pair, place: int, colours: ColourScale) -> PageSlice:
    slices = pair.slices
    images: dict[str, Image] = {
        key: run.images[place] for key, run in zip(KEYS, pair.runs, strict=True)
    }
    captions = {}
    # The first sets the colours: the errors, where there is a reference to tell them.
    if slices.references is not None:
        reference = slices.references[place]
        colours.add("error", np.abs(images["first"] - reference))
        scores = score_images(images, KEYS, reference, slices.modality)
        captions = {key: score_caption(found) for key, found in scores.items()}
        images["reference"] = reference
    # Not left to the browser: 16 bits of an image do not hold what sets two engines apart.
    images["difference"] = np.abs(images["second"] - images["first"])
    colours.add("difference", images["difference"])
    prepared = slices.prepared[place]
    if prepared.measured is not None:
        images["measured"] = prepared.measured
        captions["measured"] = measured_caption(prepared)
    packed = {key: pack(image) for key, image in images.items()}
    return PageSlice(slices.indices[place], packed, captions)


def _panels(pair: Pair, magnified: dict[str, int]) -> list[Panel]:
    slices = pair.slices
    names = {key: side.name for key, side in zip(KEYS, pair.contenders, strict=True)}
    panels = [Panel(key, name, "grey") for key, name in names.items()]
    if slices.references is not None:
        panels.append(Panel("reference", "Reference", "grey"))
    if slices.task in MEASURED:
        panels.append(Panel("measured", MEASURED[slices.task], "own"))
    times = 1 if pair.results[1].is_equal else magnified["difference"]
    panels.append(Panel("difference", "Difference", "colour", magnified=times))
    if slices.references is not None:
        panels += [
            Panel(f"error-{key}", f"Error, {name}", "colour", (key, "reference"))
            for key, name in names.items()
        ]
    return panels


def _comparison_table(pair: Pair) -> Table:
    notes = [
        describe_difference(pair),
        "PSNR and SSIM are against the scan's reference, over all slices; the residual ‖b − AᴴA x‖ "
        "/ ‖b‖ is that of the worst slice; the seconds are the engine's, the median over slices, "
        "after a run that does not count.",
    ]
    if pair.slices.references is not None:
        notes.append(f"Under the images: each slice alone. {RANGES[pair.slices.modality]}")
    first, second = pair.contenders
    return Table("Comparison", COLUMNS, comparison_rows(pair, (first.name, second.name)), notes)


def _provenance_table(pair: Pair, scan: Scan, created: datetime) -> Table:
    rows = [
        ("Input", f"{scan.path.resolve().name}, {scan.n_slices} slices"),
        ("SHA-256 of the input", scan.content_sha256),
    ]
    for side in pair.contenders:
        manifest = side.bundle.manifest
        made = f"{manifest.model.id} {manifest.model.version}, {side.bundle.trust}"
        rows += [
            (side.name, f"{made}; {manifest.sampler.default_n_steps} steps, {side.combination}"),
            ("SHA-256 of its bundle", side.bundle.digest),
        ]
    rows += [
        ("Software", f"ldmpir-edge {ldmpir_edge.__version__}"),
        ("Made", created.isoformat(timespec="seconds")),
    ]
    return Table("Provenance", ("", ""), rows)
