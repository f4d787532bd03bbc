"""Draw docs/images/{quality,acceleration,steps,latency,front,training}.png from committed results.

    python benchmarks/figures.py [-o docs/images]

Everything measured is drawn, where a peer is better too.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from quality import CASES

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
QUALITY = "quality-0.14.0.json"
ACCELERATION = "acceleration-0.11.0.json"
PRECISION = {
    "AVX2, 0.3.1": "precision-0.3.1.json",
    "Cascade Lake with VNNI, 0.3.1": "precision-0.3.1-vnni.json",
    "AMD EPYC with VNNI, 0.10.0": "precision-0.10.0.json",
}
SPEED = "speed-0.14.0.json"
OURS = ("ours, 1 steps", "ours, 4 steps", "ours, 8 steps")
BASELINES = ("untreated", "classical", *OURS)
COLOURS = {"classical": "0.65", OURS[0]: "#9ecae1", OURS[1]: "#2171b5", OURS[2]: "#08306b"}
PEER_COLOUR = "#d94801"
SMOOTHED_OVER = 100


def quality() -> plt.Figure:
    """PSNR and SSIM of each case: classical, ours, and the best peer that was tuned for it."""
    results = json.loads((RESULTS / QUALITY).read_text())["results"]
    figure, axes = plt.subplots(1, 2, figsize=(11, 1 + 0.42 * len(results)), sharey=True)
    rows = np.arange(len(results))[::-1]
    for axis, key, label in zip(axes, ("psnr_db", "ssim"), ("PSNR (dB)", "SSIM"), strict=True):
        for offset, name in zip((0.3, 0.1, -0.1), ("classical", OURS[0], OURS[1]), strict=True):
            values = [case[name][key] for case in results.values()]
            shown = name.replace("1 steps", "1 step")
            axis.barh(rows + offset, values, 0.2, color=COLOURS[name], label=shown)
        peers = [
            [method[key] for name, method in case.items() if name not in BASELINES]
            for case in results.values()
        ]
        best = [(row, max(values)) for row, values in zip(rows, peers, strict=True) if values]
        axis.barh(
            [row - 0.3 for row, _ in best],
            [value for _, value in best],
            0.2,
            color=PEER_COLOUR,
            label="best tuned peer",
        )
        axis.set_xlabel(label)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_xlim(15)
    axes[1].set_xlim(0.3, 1)
    axes[0].set_yticks(rows, list(results))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", ncol=4, fontsize=8)
    axes[0].set_ylim(-0.6, len(results) - 0.4)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    return figure


def acceleration() -> plt.Figure:
    """PSNR and SSIM of 8-coil MRI over the acceleration, ours and the peers."""
    results = json.loads((RESULTS / ACCELERATION).read_text())["results"]
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8))
    methods = list(next(iter(results.values()))["methods"])
    for axis, key, label in zip(axes, ("psnr_db", "ssim"), ("PSNR (dB)", "SSIM"), strict=True):
        peer_styles = iter(("-", "--", ":"))
        for method in methods:
            values = {
                float(r): measured["methods"][method][key]
                for r, measured in results.items()
                if method in measured["methods"]  # a peer only where it was tuned
            }
            colour = COLOURS.get(method, PEER_COLOUR)
            style = "-" if method in COLOURS else next(peer_styles)
            axis.plot(values.keys(), values.values(), style, marker=".", color=colour, label=method)
        axis.set_xlabel("acceleration R")
        axis.set_ylabel(label)
        axis.set_xticks([float(r) for r in results])
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    return figure


def steps() -> plt.Figure:
    """PSNR over the number of steps, against the best peer that was tuned for the case."""
    results = json.loads((RESULTS / QUALITY).read_text())["results"]
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    for case in CASES:  # more lines could not be told apart
        methods = results[case]
        peers = [method["psnr_db"] for name, method in methods.items() if name not in BASELINES]
        over = [methods[name]["psnr_db"] - max(peers) for name in OURS]
        axis.plot((1, 4, 8), over, marker=".", label=case)
    axis.axhline(0, color=PEER_COLOUR)
    axis.set_xticks((1, 4, 8))
    axis.set_xlabel("sampler steps")
    axis.set_ylabel("PSNR over the best tuned peer (dB)")
    axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="center right", fontsize=7)
    figure.tight_layout(rect=(0, 0, 0.72, 1))
    return figure


def latency() -> plt.Figure:
    """Time of a 256 x 256 x 8-coil slice at 4 steps by engine, precision and processor."""
    figure, axes = plt.subplots(1, len(PRECISION), figsize=(11, 3.2), sharey=True)
    for axis, (processor, name) in zip(axes, PRECISION.items(), strict=True):
        seconds = json.loads((RESULTS / name).read_text())["seconds"]["256"]
        for k, times in enumerate(seconds.values()):
            for offset, precision in zip((-0.25, 0, 0.25), ("fp32", "fp16", "int8"), strict=True):
                bar = axis.bar(k + offset, 1e3 * times[precision], 0.23, color="#2171b5")
                axis.bar(k + offset, 1e3 * times["physics"], 0.23, color="#08306b")
                axis.bar_label(bar, [precision], fontsize=7)
        axis.set_xticks(range(len(seconds)), list(seconds))
        axis.set_title(f"2 cores, {processor}", fontsize=9)
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("ms a slice (dark: physics)")
    figure.tight_layout()
    return figure


def front() -> plt.Figure:
    """PSNR against seconds of one slice, ours beside the iterative peers, both tasks."""
    peers = json.loads((RESULTS / SPEED).read_text())["peers"]
    figure, axes = plt.subplots(1, len(peers), figsize=(9, 3.6))
    for axis, (case, methods) in zip(np.atleast_1d(axes), peers.items(), strict=True):
        for name, measured in methods.items():
            if "psnr_db" not in measured:
                continue
            colour = COLOURS[OURS[1]] if name.startswith("ours") else PEER_COLOUR
            axis.scatter(measured["seconds"], measured["psnr_db"], color=colour)
            point = (measured["seconds"], measured["psnr_db"])
            axis.annotate(name, point, (0, 6), textcoords="offset points", ha="center", fontsize=7)
        axis.set_xscale("log")
        axis.set_xlabel("s a slice, 2 threads")
        axis.set_title(case, fontsize=9)
        axis.margins(x=0.35, y=0.15)
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("PSNR (dB)")
    figure.tight_layout()
    return figure


def training() -> plt.Figure:
    """Loss, and what each task gains over its classical start, trained on and held out."""
    folder = REPOSITORY / "models" / "ldmpir-2m"
    rows = _rows(folder / "log.csv")
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    axes[0].plot(_smooth([float(row["loss"]) for row in rows]), color="#2171b5")
    axes[0].set_ylabel(f"loss, mean of {SMOOTHED_OVER} updates")
    for task in sorted({row["task"] for row in rows}):
        gains = [
            (k, float(row["psnr"]) - float(row["psnr_x1"]))
            for k, row in enumerate(rows)
            if row["task"] == task
        ]
        at, gain = (list(column) for column in zip(*gains, strict=True))
        width = max(1, SMOOTHED_OVER * len(gains) // len(rows))
        # The median: a start that is almost exact costs a single update tens of dB.
        middle = np.median(np.lib.stride_tricks.sliding_window_view(gain, width), axis=1)
        axes[1].plot(at[width - 1 :], middle, label=task)
    axes[1].set_ylabel("PSNR over the start (dB), running median")
    starts = [k for k in range(1, len(rows)) if rows[k]["stage"] != rows[k - 1]["stage"]]
    for axis in axes[:2]:
        for start in starts:
            axis.axvline(start, color="0.6", linestyle=":")
    looks = _rows(folder / "validation.csv")
    colours: dict[str, str] = {}
    # Other starts are other examples: their curve is one of its own.
    for task, start in dict.fromkeys((row["task"], row["psnr_x1"]) for row in looks):
        curve = [
            (int(row["update"]), float(row["psnr"]) - float(row["psnr_x1"]))
            for row in looks
            if (row["task"], row["psnr_x1"]) == (task, start)
        ]
        label = None if task in colours else task
        colour = colours.setdefault(task, f"C{len(colours)}")
        axes[2].plot(*zip(*curve, strict=True), marker=".", label=label, color=colour)
    axes[2].set_ylabel("held out: PSNR over the start (dB)")
    for axis in axes:
        axis.set_xlabel("update")
        axis.grid(alpha=0.3)
    for axis in axes[1:]:
        axis.legend(fontsize=7, ncol=2)
    figure.tight_layout()
    return figure


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as f:
        return list(csv.DictReader(f))


def _smooth(values: list[float]) -> np.ndarray:
    return np.convolve(values, np.ones(SMOOTHED_OVER) / SMOOTHED_OVER, "valid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs" / "images")
    args = parser.parse_args()
    for draw in (quality, acceleration, steps, latency, front, training):
        path = args.output / f"{draw.__name__}.png"
        draw().savefig(path, dpi=110, metadata={"Software": None})
        print(path)


if __name__ == "__main__":
    main()
