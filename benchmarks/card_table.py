"""Write the table of results in models/ldmpir-2m/CARD.md from two versions' quality results.

    python benchmarks/card_table.py NEW OLD

Reads `results/quality-{NEW,OLD}.json`. The table stands between `<!-- quality -->` and
`<!-- end -->` in the card; all else is left as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from figures import BASELINES, OURS, REPOSITORY, RESULTS
from robustness_page import with_table

CARD = REPOSITORY / "models" / "ldmpir-2m" / "CARD.md"


def table(new: dict[str, Any], old: dict[str, Any], old_version: str) -> Iterator[str]:
    """Yield a line for each case: PSNR / SSIM, and what 4 steps are over the best peer and before.

    The best peer is that of the highest PSNR; its SSIM stands beside it.
    """
    yield (
        "| case | untreated | classical | best tuned peer run | ours, 1 step | ours, 4 steps "
        f"| ours, 8 steps | 4 steps over the peer (dB) | over {old_version} (dB) |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, case in new.items():
        cells = [_cell(case[method]) for method in (*BASELINES[:2], *OURS)]
        ours = case[OURS[1]]["psnr_db"]
        peer, lead = "", ""
        published = {method: row for method, row in case.items() if method not in BASELINES}
        if published:
            best = max(published, key=lambda method: published[method]["psnr_db"])
            peer = f"{_cell(published[best])} ({best})"
            lead = f"{ours - published[best]['psnr_db']:+.2f}"
        gain = f"{ours - old[name][OURS[1]]['psnr_db']:+.2f}" if name in old else ""
        untreated, classical, one, four, eight = cells
        yield (
            f"| {name} | {untreated} | {classical} | {peer} | {one} | **{four}** | {eight} "
            f"| {lead} | {gain} |"
        )


def _cell(row: dict[str, Any]) -> str:
    return f"{row['psnr_db']:.2f} / {row['ssim']:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("new")
    parser.add_argument("old")
    args = parser.parse_args()
    new, old = (
        json.loads((RESULTS / f"quality-{version}.json").read_text())["results"]
        for version in (args.new, args.old)
    )
    lines = list(table(new, old, args.old))
    CARD.write_text(with_table(CARD.read_text(), "quality", lines))
    print(CARD)


if __name__ == "__main__":
    main()
