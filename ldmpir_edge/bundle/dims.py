"""Symbolic tensor dimensions: integers, names and linear forms of one name (`2W`, `W+1`, `W/2`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ldmpir_edge.errors import ShapeError

Dim = int | str

_FORM = re.compile(
    r"(?P<factor>[1-9]\d{0,3})?(?P<name>[A-Za-z_]\w{0,31})"
    r"(?:/(?P<divisor>[1-9]\d{0,3}))?(?P<shift>[+-]\d{1,4})?"
)
_NUMBERS = (("factor", 1), ("divisor", 1), ("shift", 0))


def parse_dim(dim: str) -> tuple[int, str, int, int]:
    """Split a symbolic dimension `k*name/d + c` into `(k, name, d, c)`.

    Parameters
    ----------
    dim
        Such as `H`, `2W`, `W+1`, `W/2` or `n_steps-1`.

    Raises
    ------
    ValueError
        `dim` is not of that form.
    """
    match = _FORM.fullmatch(dim)
    if match is None:
        raise ValueError(f"dimension {dim!r} is not of the form 2W+1 (factor, name, shift)")
    factor, divisor, shift = (int(match[g] or d) for g, d in _NUMBERS)
    return factor, match["name"], divisor, shift


def bind_dims(
    tensor: str, shape: Sequence[Dim], actual: Sequence[int], bound: dict[str, int]
) -> None:
    """Match an array's shape against a symbolic one and record the value of each name.

    Parameters
    ----------
    tensor
        Name for the message.
    shape
        Symbolic shape.
    actual
        The array's shape.
    bound
        Values found so far; grows in place, so that tensors can be checked one after another.

    Raises
    ------
    ShapeError
        The rank differs, a fixed dimension differs, or a name would get two values.
    """
    wanted = "(" + ", ".join(map(str, shape)) + ")"
    got = tuple(actual)
    if len(shape) != len(got):
        raise ShapeError(f"'{tensor}' has shape {got}; it must have {len(shape)} axes {wanted}")
    for dim, size in zip(shape, got, strict=True):
        if isinstance(dim, int):
            if size != dim:
                raise ShapeError(f"'{tensor}' has shape {got}; it must be {wanted}")
            continue
        factor, name, divisor, shift = parse_dim(dim)
        value, remainder = divmod((size - shift) * divisor, factor)
        if remainder or value < 1:
            raise ShapeError(f"'{tensor}' has shape {got}, which does not fit {wanted}")
        if bound.setdefault(name, value) != value:
            raise ShapeError(
                f"'{tensor}' has shape {got}, so {name} would be {value}, but it is "
                f"{bound[name]} elsewhere; {wanted} is needed"
            )
