"""The worker's process: takes orders from a socket, one at a time, and answers with outcomes.

Started by the front as `python -m ldmpir_edge.serve.worker DESCRIPTOR FRONT`, which are the
socket's descriptor and the front's process. Each message is a line of
JSON. The first from the front is the configuration; then come orders. The worker sends `engines`
when it is ready and whenever they change, `slice` after each slice, `outcome` after each order,
and `error` when it cannot start.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from ldmpir_edge.errors import LdmpirError
from ldmpir_edge.scans import trial
from ldmpir_edge.scans.memory import limit_memory
from ldmpir_edge.serve.config import ServeConfig, load_config
from ldmpir_edge.serve.engines import Engines
from ldmpir_edge.serve.kept_bundles import KeptBundles
from ldmpir_edge.serve.logs import configure_logs
from ldmpir_edge.serve.parent_process import die_with_parent
from ldmpir_edge.serve.promotions import Promotions
from ldmpir_edge.serve.schedule import Latencies
from ldmpir_edge.serve.state_folder import StateFolder
from ldmpir_edge.serve.work import Order, outcome_to_dict, reconstruct

LOOK_S = 2.0
"""How often the bundles' files are looked at."""

REST_S = 0.2
"""How long nothing is asked for before the engines that were not tested yet have their turn."""

LATEST_S = 10.0
"""Where orders follow one another, an engine is tested between two of them after so long."""


class Worker:
    """The loop of the process.

    Parameters
    ----------
    line
        The connected socket.
    """

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._reader = line.makefile("rb")
        self._looked = self._tested = time.monotonic()
        self._told: list[dict[str, Any]] | None = None

    def run(self) -> None:
        """Serve until the front closes the socket."""
        start = self._receive()
        if start is None:
            return
        config = load_config(None, start["config"])
        latencies = Latencies(Path(start["latencies"]))
        try:
            engines = Engines(
                config.routes,
                allow_unsigned=config.allow_unsigned,
                doors=config.doors,
                in_service=Promotions(config.state).in_service,
                kept=KeptBundles(StateFolder(config.state).kept),
            )
        except LdmpirError as err:
            self._send({"error": str(err)})
            return
        limit_memory()
        self._tell_engines(engines)
        trial.start()  # not sooner: it would take from the start of the engines
        self._serve(config, engines, latencies)

    def _serve(self, config: ServeConfig, engines: Engines, latencies: Latencies) -> None:
        routes = {route.name: route for route in config.routes}
        while True:
            patience = REST_S if engines.has_untested else LOOK_S
            waiting, _, _ = select.select([self._line], [], [], patience)
            self._look_after(engines, at_rest=not waiting)
            if not waiting:
                continue
            message = self._receive()
            if message is None:
                return
            order = Order(**message)
            outcome = reconstruct(order, routes[order.route], engines, latencies, self._tell_slice)
            self._send({"outcome": outcome_to_dict(outcome)})
            # After the answer: nobody waits for it.
            self._tell_engines(engines)
            latencies.save()

    def _look_after(self, engines: Engines, *, at_rest: bool) -> None:
        """Take up changed bundles, and test one engine: where nobody waits, or it is time."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            engines.refresh()
        if engines.has_untested and (at_rest or now - self._tested >= LATEST_S):
            engines.test_next()
            limit_memory()  # what it takes now is no job's
            self._tested = time.monotonic()
        self._tell_engines(engines)

    def _tell_engines(self, engines: Engines) -> None:
        """Describe the engines to the front where it does not know them so."""
        described = engines.describe()
        if described != self._told:
            self._told = described
            self._send({"engines": described})

    def _tell_slice(self, index: int) -> None:
        self._send({"slice": index})

    def _receive(self) -> dict[str, Any] | None:
        line = self._reader.readline()
        if not line.endswith(b"\n"):
            return None
        message: dict[str, Any] = json.loads(line)
        return message

    def _send(self, message: dict[str, Any]) -> None:
        self._line.sendall(json.dumps(message).encode() + b"\n")


def main() -> None:
    """Run the worker for the front that the arguments name."""
    # Elsewhere than on Linux the closed socket ends it, once it looks there.
    die_with_parent(int(sys.argv[2]))
    # The front decides when a keyboard's interruption ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    configure_logs()
    with socket.socket(fileno=int(sys.argv[1])) as line:
        try:
            Worker(line).run()
        except (BrokenPipeError, ConnectionResetError):
            return  # the front is gone, and its queue knows that this job is not done


if __name__ == "__main__":
    main()
