"""Mutations of valid data by hypothesis, and what must hold for each of them."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

SHORT = 150
LONG = 100_000
"""Cases in CI, and in a long run (`pytest -m slow`)."""

SHARE_OF_BYTES = 0.1
"""Of the cases, how many are bytes of no kind: most parsers refuse them at the first look."""

BATCH = 5000
"""Hypothesis remembers every case of a run, so a long one is several."""

MAX_CASE_S = 10.0
MAX_GROWTH_KIB = 800 * 1024

_STEP = 6
_VALUES = (0, 1, 0x7F, 0x80, 0xFF, 0x41)


def mutate(seed: bytes, program: bytes) -> bytes:
    """Change `seed` step by step: six bytes say what, where and by which value.

    Bytes are overwritten, inserted, removed, repeated or cut off; numbers of 2, 4 and 8 bytes
    become extreme ones, where lengths and offsets are found.
    """
    data = bytearray(seed)
    for start in range(0, len(program) - _STEP + 1, _STEP):
        what, *where, value, size = program[start : start + _STEP]
        place = int.from_bytes(where, "big") % (len(data) + 1)
        kind = what % 7
        if kind == 0:
            data[place : place + 1] = bytes([value])
        elif kind == 1:
            data[place:place] = bytes([value]) * (size + 1)
        elif kind == 2:
            del data[place : place + size + 1]
        elif kind == 3:
            data[place:place] = data[place : place + size + 1]
        elif kind == 4:
            del data[place:]
        elif kind == 5:
            width = (2, 4, 8)[size % 3]
            data[place : place + width] = bytes([_VALUES[value % len(_VALUES)]]) * width
        elif data:
            data[place % len(data)] ^= 1 << (value % 8)
    return bytes(data)


def fuzz(seed: bytes, n_cases: int, check: Callable[[bytes], None]) -> None:
    """Run `check` on mutations of `seed`, and on bytes of no kind: in time and bounded memory.

    `check` lets pass what the parser may raise; anything else fails, with its smallest case.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def timed(data: bytes) -> None:
        # Processor time: the parsers wait for nothing, and this process may be held up.
        started = time.process_time()
        check(data)
        assert time.process_time() - started < MAX_CASE_S, "it hangs, or nearly so"

    def run(given_data: Callable[[Callable[[bytes], None]], Callable[[], None]], n: int) -> None:
        for start in range(0, n, BATCH):
            how = settings(
                max_examples=min(BATCH, n - start),
                deadline=None,
                database=None,
                # The short run is the same each time; a long one goes elsewhere each time.
                derandomize=n_cases <= SHORT,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )
            how(given_data(timed))()

    n_bytes = round(SHARE_OF_BYTES * n_cases)
    programs = st.binary(min_size=_STEP, max_size=10 * _STEP)
    run(lambda use: given(programs)(lambda program: use(mutate(seed, program))), n_cases - n_bytes)
    run(given(st.binary(max_size=2000)), n_bytes)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < MAX_GROWTH_KIB, f"memory grew by {(after - before) / 1024:.0f} MiB"
