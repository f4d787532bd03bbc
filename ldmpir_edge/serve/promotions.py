"""Which bundle serves a route: the one that was promoted last, or the configured one.

`promoted/ROUTE/NNNN.ldmpir` in the state folder: the highest number serves, so that a rename puts a
bundle in service and a removal takes it back. `promotions.jsonl` tells every change, one a line.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ldmpir_edge.atomic import atomic_file, flush_folder
from ldmpir_edge.bundle import Bundle, open_bundle
from ldmpir_edge.errors import BundleError, NothingPromotedError, StateError
from ldmpir_edge.serve.config import Route
from ldmpir_edge.serve.state_folder import check_owner, user_name

_NAME = re.compile(r"\d{4,8}\.ldmpir")
_NO_LOGIN = 2**32 - 1


@dataclass(frozen=True)
class Change:
    """A line of the record.

    Parameters
    ----------
    action, route
        What was done, and for which route.
    was, now
        Digests of the bundle that served and of the one that serves; `was` is None where that
        bundle cannot be opened any more.
    """

    action: Literal["promote", "rollback"]
    route: str
    was: str | None
    now: str


class Promotions:
    """The promoted bundles of an appliance.

    Parameters
    ----------
    state
        Its state folder.
    """

    def __init__(self, state: Path) -> None:
        self._folder, self._record = state / "promoted", state / "promotions.jsonl"

    def in_service(self, route: Route) -> Route:
        """Give the route with the bundle that serves it."""
        held = self._held(route)
        return route.model_copy(update={"bundle": str(held[-1])}) if held else route

    def promote(self, route: Route, bundle: Bundle) -> Change:
        """Put a bundle, which was checked, in service.

        Raises
        ------
        BundleError
            Its file has changed since it was opened, or the serving bundle cannot be opened.
        StateError
            The state folder cannot be written.
        OutputError
            The disk is full.
        """
        with self._recording() as record:
            held = self._held(route)
            number = int(held[-1].stem) + 1 if held else 1
            change = Change("promote", route.name, self._serving(route), bundle.digest)
            home = self._folder / route.name
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_file(home / f"{number:04d}.ldmpir") as temporary:
                shutil.copyfile(bundle.path, temporary)
                if open_bundle(temporary).digest != bundle.digest:
                    raise BundleError(f"{bundle.path} has changed while it was checked; try again")
                # Before it serves: no bundle may without a line that says who wanted it.
                _tell(record, change)
        return change

    def rollback(self, route: Route) -> Change:
        """Take the bundle that was promoted last out of service.

        Raises
        ------
        NothingPromotedError
            There is none.
        BundleError
            The bundle that would serve then cannot be opened.
        StateError
            The state folder cannot be written.
        """
        with self._recording() as record:
            held = self._held(route)
            if not held:
                raise NothingPromotedError(
                    f"nothing is promoted for route {route.name}: {route.bundle}, as configured, "
                    "serves it; to serve another, change the configuration"
                )
            before = str(held[-2]) if len(held) > 1 else route.bundle
            now = open_bundle(before).digest
            change = Change("rollback", route.name, self._serving(route), now)
            _tell(record, change)
            held[-1].unlink()
            flush_folder(held[-1].parent)
        return change

    def _held(self, route: Route) -> list[Path]:
        home = self._folder / route.name
        if not home.is_dir():
            return []
        found = (path for path in home.iterdir() if _NAME.fullmatch(path.name))
        return sorted(found, key=lambda path: int(path.stem))

    def _serving(self, route: Route) -> str | None:
        try:
            return open_bundle(self.in_service(route).bundle).digest
        except BundleError:
            return None

    @contextmanager
    def _recording(self) -> Iterator[BinaryIO]:
        """Give the record to append to, one process at a time."""
        import fcntl

        check_owner(self._record.parent)
        try:
            self._record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "ab") as record:
                fcntl.flock(record, fcntl.LOCK_EX)
                yield record
        except OSError as err:
            raise StateError(
                f"cannot write the state folder {self._record.parent}: {err.strerror}; check the "
                "folder and its disk"
            ) from err


def _tell(record: BinaryIO, change: Change) -> None:
    line: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **_who(),
        **{"action": change.action, "route": change.route},
        **{"was": change.was, "now": change.now},
    }
    record.write(json.dumps(line).encode() + b"\n")
    record.flush()
    os.fsync(record.fileno())


def _who() -> dict[str, str]:
    """Name the user of this process and, where the kernel knows, the one who logged in.

    They differ under sudo and su, which leave the second as it is.
    """
    told = {"user": user_name(os.getuid())}
    try:
        login = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        return told
    return told if login == _NO_LOGIN else {**told, "login": user_name(login)}
