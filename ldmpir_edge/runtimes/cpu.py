"""What the system says about the processor."""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

_IDENTITY = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),  # x86
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),  # Arm
)


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


def cpu_identity() -> dict[str, str]:
    """Answer what of /proc/cpuinfo tells one kind of processor from another."""
    return {key: value for key, value in cpuinfo().items() if key in _IDENTITY}
