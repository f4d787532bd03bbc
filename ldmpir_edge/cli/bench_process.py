"""`python -m ldmpir_edge.cli.bench_process REQUEST`: one measurement of `bench`.

It imports what `run` imports before it begins, so that both take as long to start.
"""

from __future__ import annotations

import sys

import ldmpir_edge.cli.app  # noqa: F401
from ldmpir_edge.reconstruct.bench_worker import answer

if __name__ == "__main__":
    answer(sys.argv[1])
