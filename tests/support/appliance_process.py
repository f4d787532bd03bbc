"""`ldmpir-edge serve` as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

START_S = 90


class ApplianceProcess:
    """A started appliance; the doors that its log names are in `doors`."""

    def __init__(self, *arguments: object) -> None:
        start = "from ldmpir_edge.cli.app import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", start, "serve", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.doors: dict[str, str] = {}
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def door(self, name: str) -> str:
        """Wait until a door is open; gives its address."""
        until = time.monotonic() + START_S
        while name not in self.doors:
            assert self._process.poll() is None, self.lines
            assert time.monotonic() < until, self.lines
            time.sleep(0.01)
        return self.doors[name]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://{self.door('http')}", timeout=60)

    def wait_ready(self) -> None:
        until = time.monotonic() + START_S
        with self.client() as client:
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < until, self.lines
                time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; gives the exit code."""
        self._process.send_signal(number)
        code = self._process.wait(60)
        self._reader.join(10)
        assert self._process.stderr is not None
        self._process.stderr.close()
        return code

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip())
            if line.startswith("{"):
                record = json.loads(line)
                if record["event"] == "door open":
                    self.doors[record["door"]] = record["address"]


def write_config(path: Path, routes: Sequence[dict[str, Any]]) -> Path:
    """Write a configuration with routes of plain values, for tests on a full disk too."""
    lines = ["[limits]", "min_free_bytes = 0"]
    for route in routes:
        lines.append("[[routes]]")
        lines += [f"{key} = {value!r}".replace("'", '"') for key, value in route.items()]
    path.write_text("\n".join(lines))
    return path
