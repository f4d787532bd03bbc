"""Bundles that fine-tuning has made of collected scans, and the run that makes the next."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ldmpir_edge.atomic import atomic_file, output_errors
from ldmpir_edge.errors import StateError

KEPT = 5
"""Candidates of a route; what was promoted is kept elsewhere."""


@dataclass(frozen=True)
class Run:
    """A fine-tuning on collected scans.

    Parameters
    ----------
    output
        The bundle that it makes.
    scans
        Names of the collected scans, sorted.
    options
        What else decides its outcome, as JSON values.
    ended
        Whether it came to its end, with a bundle or without.
    """

    output: str
    scans: tuple[str, ...]
    options: Mapping[str, Any]
    ended: bool = False


class Candidates:
    """The candidates of a route.

    Parameters
    ----------
    folder
        `candidates` in the state folder; made where missing.
    route
        Its name.
    """

    def __init__(self, folder: Path, route: str) -> None:
        self._folder, self._route = folder, route
        self._file = folder / f"{route}.json"
        with output_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other fine-tunings off the route.

        Raises
        ------
        StateError
            One is running.
        """
        import fcntl

        with output_errors(self._folder):
            file = (self._folder / f"{self._route}.lock").open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                raise StateError(
                    f"another fine-tuning of route {self._route} is under way; let it end first"
                ) from err
            yield

    def last(self) -> Run | None:
        """Answer the run that was begun last; None where there is none, or its note is damaged."""
        try:
            told = json.loads(self._file.read_text())
            return Run(**told | {"scans": tuple(told["scans"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def unfinished(self, options: Mapping[str, Any], held: Collection[str]) -> Run | None:
        """Answer the run to go on with: of these options, if its scans are all still held."""
        run = self.last()
        if run is None or run.ended or run.options != options or not set(run.scans) <= set(held):
            return None
        return run

    def begin(self, scans: Sequence[str], options: Mapping[str, Any]) -> Run:
        """Note a new run; what is left of one before it goes."""
        if (before := self.last()) is not None:
            self.checkpoint(before).unlink(missing_ok=True)
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        run = Run(f"{self._route}-{moment}.ldmpir", tuple(sorted(scans)), options)
        self._write(run)
        return run

    def end(self, run: Run) -> None:
        """Note that a run came to its end, and remove the oldest candidates beyond `KEPT`."""
        self._write(replace(run, ended=True))
        made = sorted(self._folder.glob(f"{self._route}-[0-9]*T[0-9]*Z.ldmpir"))
        for old in made[:-KEPT]:
            old.unlink(missing_ok=True)

    def path(self, run: Run) -> Path:
        """Answer where the bundle of a run goes."""
        return self._folder / run.output

    def checkpoint(self, run: Run) -> Path:
        """Answer the file that a stopped run goes on from."""
        return self.path(run).with_suffix(".finetune.pt")

    def _write(self, run: Run) -> None:
        with atomic_file(self._file) as temporary:
            temporary.write_text(json.dumps(asdict(run), indent=1))
