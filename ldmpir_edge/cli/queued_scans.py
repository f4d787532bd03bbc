"""Scans that a route of an appliance has collected, for `finetune --from-queue`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldmpir_edge.bundle import open_bundle
from ldmpir_edge.cli.given_scans import OnStep, base_folder
from ldmpir_edge.cli.output import print_note
from ldmpir_edge.errors import BundleError, NotEnoughScansError, SealError, UsageError
from ldmpir_edge.serve.background import wait_until_idle
from ldmpir_edge.serve.candidate import WEIGHTS, ancestors
from ldmpir_edge.serve.candidates import Candidates, Run
from ldmpir_edge.serve.collection import CollectedScans
from ldmpir_edge.serve.config import load_config
from ldmpir_edge.serve.sealing import read_key
from ldmpir_edge.serve.state_folder import StateFolder, check_owner

if TYPE_CHECKING:
    from ldmpir_edge.finetuning.recipe import Loss
    from ldmpir_edge.finetuning.scans import ScanSource, SiteScans
    from ldmpir_edge.finetuning.selection import Selection


class QueuedScans:
    """A fine-tuning on the scans that a route of an appliance has collected.

    Parameters
    ----------
    config, route
        The appliance's file and the route's name.
    options
        What decides the outcome beside the scans; another run has others.

    Attributes
    ----------
    precision : str
        What the route serves, separated by commas.

    Raises
    ------
    UsageError
        The route does not exist or does not collect.
    SealError
        The key cannot be used.
    StateError
        The state folder is another user's.
    """

    def __init__(self, config: Path, route: str, options: Mapping[str, Any]) -> None:
        settings = load_config(config, {})
        self._route, self._options = settings.named_route(route), dict(options)
        if settings.collection is None or not self._route.collect:
            raise UsageError(
                f"route {route} collects no scans; add collect = true to it and [collection]: see "
                "docs/appliance.md"
            )
        check_owner(settings.state)
        self._folder = StateFolder(settings.state)
        key = read_key(settings.collection.key)
        self._collected = CollectedScans(self._folder.collected, settings.collection, key)
        self._candidates = Candidates(self._folder.candidates, route)
        self._run: Run | None = None
        self.precision = ",".join(self._route.precisions)

    def base_folder(self, named: str | None) -> Path:
        """Find the weights of the route's model.

        Parameters
        ----------
        named
            The user's choice, or None for the folder in models/ that is called as the model.

        Raises
        ------
        BundleError
            They are not there, or are another model's.
        """
        bundle = open_bundle(self._route.bundle)
        name = named or bundle.manifest.model.id
        folder = base_folder(name)
        weights = folder / WEIGHTS
        remedy = f"give those of route {self._route.name}'s model with --base FOLDER"
        if not weights.is_file():
            raise BundleError(f"no weights in {folder}; {remedy}")
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        if digest not in ancestors(bundle.manifest):
            raise BundleError(f"{weights} does not belong to {self._route.bundle}; {remedy}")
        # After an update of the base the same scans are worth another run.
        self._options["weights"] = digest
        return folder

    def hold(self) -> AbstractContextManager[None]:
        """Keep other fine-tunings off the route; as `Candidates.hold`."""
        return self._candidates.hold()

    def scans(self, loss: Loss, noise_level: float | None, on_step: OnStep) -> SiteScans:
        """Read the scans of the run to go on with, or else choose some.

        Raises
        ------
        NotEnoughScansError
            There are too few that go together, or the last run had the same.
        SealError
            Of too few, one or more cannot be opened.
        """
        from ldmpir_edge.finetuning.scans import describe_scan, read_scans
        from ldmpir_edge.finetuning.selection import select_scans

        held = self._collected.names(self._route.name)
        self._run = self._candidates.unfinished(self._options, held)
        if self._run is not None:
            print_note("going on with the run that was stopped")
            scans = [describe_scan(self._source(name)) for name in self._run.scans]
            return read_scans(scans, loss, noise_level)
        sources = [self._source(name) for name in held]

        def on_look(n_done: int) -> None:
            on_step("looking at collected scans", n_done, len(sources))

        chosen = select_scans(sources, loss, noise_level, on_look)
        for name, err in chosen.left_out.items():
            print_note(f"{name} is left out: {err}")
        self._check_enough(len(held), chosen)
        names = tuple(sorted(scan.source.name for scan in chosen.chosen))
        last = self._candidates.last()
        if last is not None and (last.scans, last.options) == (names, self._options):
            raise NotEnoughScansError(
                f"no scan of route {self._route.name} was collected since the last run that "
                "another run would learn from; try again later, or with another --seed"
            )
        self._run = self._candidates.begin(names, self._options)
        return read_scans(chosen.chosen, loss, noise_level)

    @property
    def output(self) -> Path:
        """Where the candidate goes, once `scans` were read."""
        return self._candidates.path(self._current())

    def wait(self, on_wait: Callable[[int], None]) -> None:
        """Wait until the appliance has nothing to do; as `wait_until_idle`."""
        wait_until_idle(self._folder.database, on_wait)

    def end(self) -> None:
        """Note that the run is over, whatever came of it."""
        self._candidates.end(self._current())

    def _current(self) -> Run:
        if self._run is None:
            raise UsageError("no scans were chosen yet")
        return self._run

    def _source(self, name: str) -> ScanSource:
        from ldmpir_edge.finetuning.scans import ScanSource

        return ScanSource(name, partial(self._collected.open, self._route.name, name))

    def _check_enough(self, n_held: int, selection: Selection) -> None:
        from ldmpir_edge.finetuning.scans import MIN_SCANS

        if len(selection.chosen) >= MIN_SCANS:
            return
        for err in selection.left_out.values():
            # A wrong key must not look like a want of scans.
            if isinstance(err, SealError):
                raise err
        raise NotEnoughScansError(
            f"route {self._route.name} has collected {n_held} scans, of which "
            f"{len(selection.chosen)} go together; fine-tuning needs {MIN_SCANS}, better five: "
            "try again when there are more"
        )
