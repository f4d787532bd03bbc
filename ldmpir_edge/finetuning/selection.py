"""Which of many scans to fine-tune on: about five of one protocol, the newest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ldmpir_edge.errors import LdmpirError, UsageError
from ldmpir_edge.finetuning.recipe import Loss
from ldmpir_edge.finetuning.scans import (
    DescribedScan,
    ScanSource,
    describe_open_scan,
    middle_slices,
    read_slice,
)

WANTED_SCANS = 5


@dataclass
class Selection:
    """What was chosen, and why each other scan was not, by name."""

    chosen: list[DescribedScan] = field(default_factory=list)
    left_out: dict[str, LdmpirError] = field(default_factory=dict)


def select_scans(
    sources: Sequence[ScanSource],
    loss: Loss,
    noise_level: float | None,
    on_look: Callable[[int], None],
) -> Selection:
    """Choose the first protocol of which there are `WANTED_SCANS`, or that of which there are most.

    Parameters
    ----------
    sources
        In the order of preference. One that cannot be read or learned from is left out.
    loss, noise_level
        As for `load_scans`.
    on_look
        Called before each look with the number of looks done.
    """
    selection = Selection()
    protocols: list[list[DescribedScan]] = []
    seen: set[str] = set()
    for n_done, source in enumerate(sources):
        on_look(n_done)
        try:
            with source.open() as opened:
                scan = describe_open_scan(source, opened)
                # A slice, too: what makes a scan useless shows in any.
                (index,) = middle_slices(opened.n_slices, 1)
                read_slice(opened, index, loss, noise_level)
        except LdmpirError as err:
            selection.left_out[source.name] = err
            continue
        if scan.digest in seen:
            selection.left_out[source.name] = UsageError("it is the same as another")
            continue
        seen.add(scan.digest)
        for alike in protocols:
            if alike[0].settings == scan.settings:
                alike.append(scan)
                break
        else:
            protocols.append([scan])
        if any(len(alike) == WANTED_SCANS for alike in protocols):
            break
    # Of two as long the first: the newer.
    selection.chosen = max(protocols, key=len, default=[])
    for alike in protocols:
        if alike is not selection.chosen:
            for scan in alike:
                selection.left_out[scan.source.name] = UsageError("it is of another protocol")
    return selection
