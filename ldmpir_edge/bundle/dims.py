"""Symbolic tensor dimensions: integers, names and linear forms of one name (`2W`, `W+1`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ldmpir_edge.errors import ShapeError

Dim = int | str

_FORM = re.compile(r"(?P<factor>[1-9]\d{0,3})?(?P<name>[A-Za-z_]\w{0,31})(?P<shift>[+-]\d{1,4})?")


def parse_dim(dim: str) -> tuple[int, str, int]:
    """Split a symbolic dimension `k*name + c` into `(k, name, c)`.

    Parameters
    ----------
    dim
        Such as `H`, `2W`, `W+1` or `n_steps-1`.

    Raises
    ------
    ValueError
        `dim` is not of that form.
    """
    match = _FORM.fullmatch(dim)
    if match is None:
        raise ValueError(f"dimension {dim!r} is not of the form 2W+1 (factor, name, shift)")
    return int(match["factor"] or 1), match["name"], int(match["shift"] or 0)


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
        factor, name, shift = parse_dim(dim)
        value, remainder = divmod(size - shift, factor)
        if remainder or value < 1:
            raise ShapeError(f"'{tensor}' has shape {got}, which does not fit {wanted}")
        if bound.setdefault(name, value) != value:
            raise ShapeError(
                f"'{tensor}' has shape {got}, so {name} would be {value}, but it is "
                f"{bound[name]} elsewhere; {wanted} is needed"
            )
