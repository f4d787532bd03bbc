"""Logs as one JSON object a line, with nothing in them that a scan or a client has said.

Our own records name what happened in fixed words, with ids, counts, classes of errors and names
from the configuration beside them. What other libraries log is cut down to its origin: their
words may quote a header.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO

import structlog

OURS = "ldmpir_edge"

_STANDARD = ("timestamp", "level", "logger", "event", "error", "where")


def configure_logs(stream: TextIO = sys.stderr, level: int = logging.INFO) -> None:
    """Send all records of this process to `stream`, as JSON; in place of what was set up before."""
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            _cut_down,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # What nobody caught would otherwise be printed with its words.
    threading.excepthook = lambda caught: _tell_unexpected(caught.exc_value)
    sys.excepthook = lambda _kind, value, _trace: _tell_unexpected(value)


def _tell_unexpected(err: BaseException | None) -> None:
    logging.getLogger(f"{OURS}.serve").critical("unexpected exception", exc_info=err)


def _origin(exc_info: Any) -> dict[str, str]:
    """Give the class of an exception and the line it is from, without its words."""
    if not exc_info or exc_info[1] is None:
        return {}
    frames = traceback.extract_tb(exc_info[2])
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return {"error": exc_info[0].__name__, "where": where}


def _cut_down(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    record: logging.LogRecord = event["_record"]
    event.update(_origin(event.pop("exc_info", None)))
    if record.name.partition(".")[0] != OURS:
        for key in [key for key in event if key not in _STANDARD and key[0] != "_"]:
            del event[key]
        event["event"] = "a library has logged something"
    return event
