"""What the system says about the processor."""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def cpuinfo() -> dict[str, str]:
    """Read the first processor's block of /proc/cpuinfo; empty on systems without it."""
    table: dict[str, str] = {}
    try:
        with _CPUINFO.open() as file:
            # Line by line: the kernel makes up one block a processor, and the first is enough.
            for line in file:
                if not line.strip():
                    break
                key, _, value = line.partition(":")
                table[key.strip()] = value.strip()
    except OSError:
        return {}
    return table
