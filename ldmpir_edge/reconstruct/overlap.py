"""Run the engine while another thread reads and prepares the next item and finishes the last."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Prepared = TypeVar("Prepared")
Ran = TypeVar("Ran")
Finished = TypeVar("Finished")


def overlap(
    items: Sequence[int],
    prepare: Callable[[int], Prepared],
    run: Callable[[int, Prepared], Ran],
    finish: Callable[[int, Prepared, Ran], Finished],
    meanwhile: Callable[[], None],
) -> Iterator[Finished]:
    """Yield `finish(i, p, run(i, p))` with `p = prepare(i)` for every item i, in order.

    `run` is called in the caller's thread; `prepare` and `finish` in one thread beside it, which
    works at most one item ahead and one behind, so that three items are held at a time. While the
    first item is prepared, the caller's thread does `meanwhile`. Closing the generator, or an
    error, waits for what that thread is doing and ends it.

    The matrix products of NumPy and SciPy are kept to one thread meanwhile, in the whole process:
    their spinning threads and the engine's otherwise take the cores from each other.

    Raises
    ------
    Exception
        Whatever `meanwhile` raised, or `prepare`, `run` or `finish` of the first item that failed.
        The finished items before the last two may have been yielded.
    """
    # The limit is lifted only after the thread has ended: OpenBLAS must not change its number of
    # threads while a product runs.
    with _libraries(len(sys.modules)).limit(limits=1, user_api="blas"):
        pool = ThreadPoolExecutor(1, thread_name_prefix="ldmpir-beside-engine")
        try:
            ahead = pool.submit(prepare, items[0])
            meanwhile()
            behind: Future[Finished] | None = None
            for place, item in enumerate(items, start=1):
                prepared = ahead.result()
                if place < len(items):
                    ahead = pool.submit(prepare, items[place])
                ran = run(item, prepared)
                done, behind = behind, pool.submit(finish, item, prepared, ran)
                if done is not None:
                    yield done.result()
            if behind is not None:
                yield behind.result()
        finally:
            pool.shutdown(cancel_futures=True)


@lru_cache(maxsize=1)
def _libraries(n_modules: int) -> ThreadpoolController:
    """Find the loaded libraries, which takes milliseconds: again only after another import."""
    return ThreadpoolController()
