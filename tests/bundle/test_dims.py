"""Symbolic dimensions against shapes that were worked out by hand."""

from __future__ import annotations

import pytest

from ldmpir_edge.bundle.dims import bind_dims, parse_dim
from ldmpir_edge.errors import ShapeError


@pytest.mark.parametrize(
    ("dim", "parts"),
    [
        ("H", (1, "H", 1, 0)),
        ("2W", (2, "W", 1, 0)),
        ("W/2", (1, "W", 2, 0)),
        ("W+1", (1, "W", 1, 1)),
        ("n_steps-1", (1, "n_steps", 1, -1)),
    ],
)
def test_forms(dim: str, parts: tuple[int, str, int, int]) -> None:
    assert parse_dim(dim) == parts


@pytest.mark.parametrize(
    "dim", ["", "2", "0W", "H*W", "H+", "W+1+1", "W/0", "W/", "-H", "H W", "2W\n"]
)
def test_other_forms_are_refused(dim: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        parse_dim(dim)


def test_names_are_bound_through_factors_and_shifts() -> None:
    bound = {"n_steps": 4}
    bind_dims("noise", ("B", "n_steps-1", 2, "H", "W"), (1, 3, 2, 16, 32), bound)
    bind_dims("dft", ("2W", "2n"), (64, 20), bound)
    bind_dims("cos", ("W/2", "n"), (16, 10), bound)
    bind_dims("kernel", ("2H", "W+1"), (32, 33), bound)
    assert bound == {"n_steps": 4, "B": 1, "H": 16, "W": 32, "n": 10}


@pytest.mark.parametrize(
    ("shape", "actual", "message"),
    [
        (("B", "H"), (1, 2, 3), r"must have 2 axes \(B, H\)"),
        (("B", 2), (1, 3), r"must be \(B, 2\)"),
        (("2W",), (5,), "does not fit"),
        (("W+1",), (1,), "does not fit"),
        (("H",), (0,), "does not fit"),
        (("H", "H"), (4, 5), "H would be 5, but it is 4 elsewhere"),
    ],
)
def test_shapes_that_disagree(
    shape: tuple[int | str, ...], actual: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        bind_dims("x", shape, actual, {})
