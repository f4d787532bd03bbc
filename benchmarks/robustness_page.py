"""Draw docs/images/robustness-*.png and write the tables of docs/robustness.md from results.

    python benchmarks/robustness_page.py [VERSION]

Reads `results/{robustness,lesions,uncertainty}-VERSION.json`; the newest version if none is named.
Tables stand between `<!-- NAME -->` and `<!-- end -->` in the page; all else is left as it is.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from figures import COLOURS, OURS, REPOSITORY, RESULTS
from product import METHODS

PAGE = REPOSITORY / "docs" / "robustness.md"
IMAGES = REPOSITORY / "docs" / "images"
COLOUR = {"classical": COLOURS["classical"], "ours": COLOURS[OURS[1]]}
GOALS = {"recovered": 0.7, "spearman": 0.4}

Results = dict[str, dict[str, Any]]


def sweeps(results: Results, names: tuple[str, ...]) -> plt.Figure:
    """PSNR and SSIM along each quantity; what the network was not trained on is shaded."""
    shown = {name: results["robustness"]["sweeps"][name] for name in names}
    figure, axes = plt.subplots(2, len(shown), figsize=(3.6 * len(shown), 4.6), squeeze=False)
    for column, sweep in zip(axes.T, shown.values(), strict=True):
        settings = sweep["settings"]
        at = np.arange(len(settings))
        for axis, key in zip(column, ("psnr_db", "ssim"), strict=True):
            for method in METHODS:
                values = np.array([row[method][key] for row in settings.values()])
                axis.plot(at, values.mean(1), "o-", ms=3, color=COLOUR[method], label=method)
                axis.fill_between(
                    at, values.min(1), values.max(1), color=COLOUR[method], alpha=0.2, lw=0
                )
            for k, row in enumerate(settings.values()):
                if not row["inside"]:
                    axis.axvspan(k - 0.5, k + 0.5, color="#fdd0a2", alpha=0.4, lw=0)
            axis.set_xlim(-0.5, len(settings) - 0.5)
            axis.grid(alpha=0.3)
            axis.set_xticks(at, [])
        slanted = {"rotation": 30, "ha": "right"} if max(map(len, settings)) > 5 else {}
        column[1].set_xticks(at, list(settings), fontsize=7, **slanted)
        column[1].set_xlabel(sweep["quantity"], fontsize=8)
    axes[0, 0].set_ylabel("PSNR (dB)")
    axes[1, 0].set_ylabel("SSIM")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    return figure


def anatomy(results: Results) -> plt.Figure:
    """Draw what ours gains over the classical image, on anatomy as in training and other."""
    cases = results["robustness"]["anatomy"]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    rows = np.arange(len(cases))[::-1]
    for axis, key, label in zip(axes, ("psnr_db", "ssim"), ("dB of PSNR", "SSIM"), strict=True):
        for offset, kind, colour in ((0.18, "seen", "#2171b5"), (-0.18, "unseen", "#d94801")):
            gains = [_gain(case[kind], key) for case in cases.values()]
            middle = np.array([g.mean() for g in gains])
            reach = [middle - [g.min() for g in gains], [g.max() for g in gains] - middle]
            axis.barh(rows + offset, middle, 0.34, xerr=reach, color=colour, label=kind)
        axis.axvline(0, color="0.3", lw=0.8)
        axis.set_xlabel(f"gained over the classical image, {label}")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(rows, list(cases), fontsize=8)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def lesions(results: Results) -> plt.Figure:
    """Contrast recovered, lesions found and lesions invented against acceleration."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2))
    for (radius, by_acceleration), style in zip(
        results["lesions"]["results"].items(), ("o-", "s--"), strict=True
    ):
        at = [float(r) for r in by_acceleration]
        for method in METHODS:
            rows = [row[method] for row in by_acceleration.values()]
            look = {"color": COLOUR[method], "label": f"{method}, {radius}", "ms": 4}
            recovered = [np.array(row["recovered"]) for row in rows]
            axes[0].plot(at, [r.mean() for r in recovered], style, **look)
            axes[1].plot(at, [100 * row["found"] for row in rows], style, **look)
            axes[2].plot(at, [100 * row["invented"] for row in rows], style, **look)
    axes[0].axhline(GOALS["recovered"], color="#d94801", lw=0.8)
    axes[0].set_ylabel("contrast recovered (line: the goal)")
    axes[1].set_ylabel("lesions found (%)")
    axes[2].set_ylabel("places with an invented one (%)")
    for axis in axes:
        axis.set_xlabel("acceleration, 8 coils")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=6)
    figure.tight_layout()
    return figure


def uncertainty(results: Results) -> plt.Figure:
    """Reliability of the deviation, and its rank correlation with the error."""
    cases = results["uncertainty"]["results"]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for k, (name, row) in enumerate(cases.items()):
        predicted, found = np.array(row["reliability"]).T
        axes[0].loglog(predicted, found, ".-", color=f"C{k}", lw=0.8, label=name)
    axes[0].plot([1e-3, 1e-1], [1e-3, 1e-1], color="0.3", lw=0.8)
    axes[0].set_xlabel("standard deviation over samples, mean of a tenth")
    axes[0].set_ylabel("root mean square error")
    axes[0].legend(fontsize=6)
    rows = np.arange(len(cases))[::-1]
    for offset, key, colour in ((0.2, "spearman", "#2171b5"), (-0.2, "perfect", "0.65")):
        values = [np.mean(row[key]) for row in cases.values()]
        label = "of the map" if key == "spearman" else "of a perfect map of this spread"
        axes[1].barh(rows + offset, values, 0.38, color=colour, label=label)
    axes[1].axvline(GOALS["spearman"], color="#d94801", lw=0.8)
    axes[1].set_yticks(rows, list(cases), fontsize=8)
    axes[1].set_xlabel("Spearman with |error| (line: the goal)")
    axes[1].set_xlim(-0.4, 0.8)
    axes[1].legend(fontsize=7, loc="lower right")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure


def sweep_table(results: Results) -> Iterator[str]:
    """Yield every setting; what ours loses to the classical image is bold."""
    yield "| quantity | value | trained on | classical | ours | gain (dB): mean, least |"
    yield "|---|---|---|---|---|---|"
    for sweep in results["robustness"]["sweeps"].values():
        for value, row in sweep["settings"].items():
            yield (
                f"| {sweep['quantity']} | {value} | {'yes' if row['inside'] else 'no'} "
                f"| {_cell(row, 'classical')} | {_cell(row, 'ours')} | {_gains(row)} |"
            )


def anatomy_table(results: Results) -> Iterator[str]:
    """Yield each case on both kinds of anatomy."""
    yield "| case | anatomy | classical | ours | gain (dB): mean, least |"
    yield "|---|---|---|---|---|"
    for name, kinds in results["robustness"]["anatomy"].items():
        for kind, row in kinds.items():
            cells = f"{_cell(row, 'classical')} | {_cell(row, 'ours')} | {_gains(row)}"
            yield f"| {name} | {kind} | {cells} |"


def lesion_table(results: Results) -> Iterator[str]:
    """Yield each radius and acceleration."""
    yield "| lesion | R | image | recovered: mean, least | found | invented | largest false |"
    yield "|---|---|---|---|---|---|---|"
    for radius, by_acceleration in results["lesions"]["results"].items():
        for acceleration, row in by_acceleration.items():
            for method in METHODS:
                of = row[method]
                yield (
                    f"| {radius} | {acceleration} | {method} | {np.mean(of['recovered']):.2f}, "
                    f"{np.min(of['recovered']):.2f} | {of['found']:.0%} | {of['invented']:.1%} "
                    f"| {of['largest_false_contrast']:.2f} |"
                )


def uncertainty_table(results: Results) -> Iterator[str]:
    """Yield each case: means over its slices, and the lowest correlation."""
    yield "| case | Spearman: mean, least | of a perfect map | within ±2 | factor for 95 % |"
    yield "|---|---|---|---|---|"
    for name, row in results["uncertainty"]["results"].items():
        spearman = row["spearman"]
        yield (
            f"| {name} | {np.mean(spearman):.2f}, {np.min(spearman):.2f} "
            f"| {np.mean(row['perfect']):.2f} | {np.mean(row['coverage']):.0%} "
            f"| {np.mean(row['factor']):.1f} |"
        )


def failures(results: Results) -> Iterator[str]:
    """Yield a line for each goal that is missed, and for all that the classical image does better.

    A goal that is met has a line, too, so that a rerun cannot lose one.
    """
    lesion = results["lesions"]["results"]["radius 3"]["4"]
    kept = {method: float(np.mean(lesion[method]["recovered"])) for method in METHODS}
    goal = GOALS["recovered"]
    yield (
        f"- Small lesions, radius 3 at R = 4: {kept['ours']:.2f} of the contrast comes back, "
        f"{kept['classical']:.2f} in the classical image. The goal of {goal} is "
        f"{'met' if kept['ours'] >= goal else '**missed**'}; "
        f"{np.mean(np.array(lesion['ours']['recovered']) < goal):.0%} of the lesions keep less."
    )
    yield (
        f"- Invented contrast at R = 4: at {lesion['ours']['invented']:.1%} of the places without "
        f"a lesion there is a difference of half a lesion or more (classical "
        f"{lesion['classical']['invented']:.1%}), the largest of "
        f"{lesion['ours']['largest_false_contrast']:.0%}. "
        f"The goal of none is {'**missed**' if lesion['ours']['invented'] else 'met'}."
    )
    cases = results["uncertainty"]["results"]
    spearman = {name: float(np.mean(row["spearman"])) for name, row in cases.items()}
    reached = [name for name, value in spearman.items() if value >= GOALS["spearman"]]
    covered = [float(np.mean(row["coverage"])) for row in cases.values()]
    yield (
        f"- Uncertainty: the map's rank correlation with the error is {min(spearman.values()):.2f} "
        f"to {max(spearman.values()):.2f}; the goal of {GOALS['spearman']} is "
        f"{'met' if len(reached) == len(cases) else '**missed**'} in "
        f"{len(cases) - len(reached) or 'all'} of {len(cases)} cases. Within ±2 deviations lie "
        f"{min(covered):.0%} to {max(covered):.0%} of the errors, where 95 % should."
    )
    worse = [
        f"{sweep['quantity']}: {value} ({_gain(row, 'psnr_db').mean():+.2f} dB, "
        f"SSIM {_gain(row, 'ssim').mean():+.3f})"
        for sweep in results["robustness"]["sweeps"].values()
        for value, row in sweep["settings"].items()
        if _loses(row)
    ] + [
        f"{name}, {kind} anatomy ({_gain(row, 'psnr_db').mean():+.2f} dB, "
        f"SSIM {_gain(row, 'ssim').mean():+.4f})"
        for name, kinds in results["robustness"]["anatomy"].items()
        for kind, row in kinds.items()
        if _loses(row)
    ]
    yield (
        "- Settings in which the classical image has the higher PSNR or SSIM: "
        + ("; ".join(worse) if worse else "none")
        + "."
    )
    weaker = [
        f"{name} ({_gain(kinds['seen'], 'psnr_db').mean():+.1f} → "
        f"{_gain(kinds['unseen'], 'psnr_db').mean():+.1f} dB)"
        for name, kinds in results["robustness"]["anatomy"].items()
        if _gain(kinds["unseen"], "psnr_db").mean() < _gain(kinds["seen"], "psnr_db").mean() / 2
    ]
    yield (
        "- Unseen anatomy halves what is gained over the classical image, or worse, in: "
        + ("; ".join(weaker) if weaker else "none of the cases")
        + "."
    )


TABLES: dict[str, Callable[[Results], Iterator[str]]] = {
    "failures": failures,
    "sweeps": sweep_table,
    "anatomy": anatomy_table,
    "lesions": lesion_table,
    "uncertainty": uncertainty_table,
}


def with_table(page: str, name: str, lines: list[str]) -> str:
    """Replace what stands between `<!-- name -->` and the next `<!-- end -->`."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise SystemExit(f"one place for the table {name} is wanted in the page")
    body = "\n".join(["", *lines, "", ""])
    return pattern.sub(lambda match: match[1] + body + match[2], page)


def _gain(row: dict[str, Any], key: str) -> np.ndarray:
    return np.array(row["ours"][key]) - np.array(row["classical"][key])


def _loses(row: dict[str, Any]) -> bool:
    return any(_gain(row, key).mean() < 0 for key in ("psnr_db", "ssim"))


def _gains(row: dict[str, Any]) -> str:
    gain = _gain(row, "psnr_db")
    cell = f"{gain.mean():+.2f}, {gain.min():+.2f}"
    cell = f"**{cell}**" if _loses(row) else cell
    return f"{cell}; {row['refused']} refused" if row["refused"] else cell


def _cell(row: dict[str, Any], method: str) -> str:
    return f"{np.mean(row[method]['psnr_db']):.2f} / {np.mean(row[method]['ssim']):.3f}"


def _newest() -> str:
    versions = [path.stem.split("-", 1)[1] for path in RESULTS.glob("robustness-*.json")]
    return max(versions, key=lambda version: [int(n) for n in version.split(".")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", nargs="?", default=_newest())
    version = parser.parse_args().version
    results: Results = {
        name: json.loads((RESULTS / f"{name}-{version}.json").read_text())
        for name in ("robustness", "lesions", "uncertainty")
    }
    drawn = {
        "mri": sweeps(results, ("acceleration", "coils", "noise")),
        "image": sweeps(results, ("size", "orientation", "contrast")),
        "ct": sweeps(results, ("views", "photons")),
        "anatomy": anatomy(results),
        "lesions": lesions(results),
        "uncertainty": uncertainty(results),
    }
    for name, figure in drawn.items():
        path = IMAGES / f"robustness-{name}.png"
        figure.savefig(path, dpi=90, metadata={"Software": None})
        print(path)
    page = PAGE.read_text()
    for name, table in TABLES.items():
        page = with_table(page, name, list(table(results)))
    PAGE.write_text(re.sub(r"(<!-- version -->).*?(<!-- end -->)", rf"\g<1>{version}\g<2>", page))
    print(PAGE)


if __name__ == "__main__":
    main()
