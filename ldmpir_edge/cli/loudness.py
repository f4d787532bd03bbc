"""`--quiet` and `--verbose`, which every command takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from ldmpir_edge.cli.output import set_loudness
from ldmpir_edge.errors import UsageError

Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Print nothing but the result and errors.")
]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Say what is done and why; on standard error.")
]


def with_loudness(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the two options; Typer reads the signature that this returns."""

    @wraps(command)
    def loud(*, quiet: bool, verbose: bool, **options: Any) -> None:
        if quiet and verbose:
            raise UsageError("--quiet and --verbose exclude each other; leave one out")
        set_loudness(quiet=quiet, verbose=verbose)
        command(**options)

    named = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.signature(command, eval_str=True)
    taken = [option.replace(kind=named) for option in signature.parameters.values()]
    ours = [
        inspect.Parameter(name, named, default=False, annotation=option)
        for name, option in (("quiet", Quiet), ("verbose", Verbose))
    ]
    taken += ours
    loud.__signature__ = signature.replace(parameters=taken)  # type: ignore[attr-defined]
    loud.__annotations__ = {option.name: option.annotation for option in taken}
    return loud
