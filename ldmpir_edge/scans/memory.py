"""A bound for the memory of a process that reads: a damaged file must not take the machine with it.

libhdf5 allocates what a variable-length sample claims to be before it looks whether that is there:
14 GB for a damaged ISMRMRD file of 300 kB. Past the bound the allocation fails, and the file is
refused like any other damaged one.
"""

from __future__ import annotations

import sys
from pathlib import Path

MAX_JOB_BYTES = 6 * 2**30
"""What a job may take beside the engines: a slice has 1 GiB at most, and some copies of it."""


def limit_memory(n_bytes: int = MAX_JOB_BYTES) -> None:
    """Let this process take `n_bytes` more than it has now; on Linux, elsewhere nothing is done."""
    if sys.platform != "linux":
        return
    import resource

    held = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            held = int(line.split()[1]) * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = held + n_bytes
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
