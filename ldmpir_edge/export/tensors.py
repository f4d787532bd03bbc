"""Names, dtypes and symbolic shapes of every engine input, as the manifest states them."""

from __future__ import annotations

from ldmpir_edge.bundle.schema import TensorSpec
from ldmpir_edge.physics.normal import TABLES
from ldmpir_edge.physics.problem import Family

# Values of a scaled image stay near [0, 1]; ten is the head-room that the gate tries.
IMAGE_RANGE = (-10.0, 10.0)

_COMMON = (
    TensorSpec(name="b", dtype="float32", shape=("B", 2, "H", "W"), range=IMAGE_RANGE),
    TensorSpec(name="x1", dtype="float32", shape=("B", 2, "H", "W"), range=IMAGE_RANGE),
    TensorSpec(name="noise_level", dtype="float32", shape=("B",), range=(0.0, 10.0)),
    TensorSpec(name="condition", dtype="float32", shape=("B", 7), range=(0.0, 1.0)),
    TensorSpec(name="noise", dtype="float32", shape=("B", "n_steps-1", 2, "H", "W")),
)

_TABLES: dict[Family, tuple[TensorSpec, ...]] = {
    "cartesian1d": (
        TensorSpec(
            name="csm_halves", dtype="float32", shape=("B", 4, "C", "H", "W/2"), range=(-1.0, 1.0)
        ),
        TensorSpec(name="cos", dtype="float32", shape=("W/2", "n"), range=(-1.0, 1.0)),
        TensorSpec(name="sin", dtype="float32", shape=("W/2", "n"), range=(-1.0, 1.0)),
        TensorSpec(name="density", dtype="float32", shape=("B", 2, "W/2"), range=(0.0, 1.0)),
        TensorSpec(name="all_cos", dtype="float32", shape=("W/2", "W/2"), range=(-1.0, 1.0)),
        TensorSpec(name="all_sin", dtype="float32", shape=("W/2", "W/2"), range=(-1.0, 1.0)),
    ),
    "separable": (
        TensorSpec(name="csm", dtype="float32", shape=("B", "C", 2, "H", "W"), range=(-1.0, 1.0)),
        TensorSpec(name="left", dtype="float32", shape=("m", "H", 2), range=(-1.0, 1.0)),
        TensorSpec(name="right", dtype="float32", shape=("W", "n", 2), range=(-1.0, 1.0)),
        TensorSpec(name="mask", dtype="float32", shape=("B", "m", "n"), range=(0.0, 1.0)),
    ),
    "pointwise": (
        TensorSpec(name="mask", dtype="float32", shape=("B", "H", "W"), range=(0.0, 1.0)),
    ),
    "toeplitz": (
        TensorSpec(name="kernel", dtype="float32", shape=("2H", "W+1"), range=(0.0, 1.0)),
        TensorSpec(name="dft_h", dtype="float32", shape=("2H", "H", 2), range=(-1.0, 1.0)),
        TensorSpec(name="dft_w", dtype="float32", shape=("W", "W+1", 2), range=(-1.0, 1.0)),
    ),
    "rays": (
        TensorSpec(name="forward_index", dtype="int32", shape=("R", "N")),
        TensorSpec(name="forward_fraction", dtype="float32", shape=("R", "N"), range=(0.0, 1.0)),
        TensorSpec(name="forward_weight", dtype="float32", shape=("R",)),
        TensorSpec(name="adjoint_index", dtype="int32", shape=("P", "K")),
        TensorSpec(name="adjoint_weight", dtype="float32", shape=("P", "K")),
        TensorSpec(name="filter", dtype="float32", shape=("D", "D")),
    ),
}

OUTPUTS = (TensorSpec(name="image", dtype="float32", shape=("B", 2, "H", "W")),)


def family_inputs(family: Family) -> tuple[TensorSpec, ...]:
    """Return the inputs of a family; a graph of one step lacks `noise`."""
    by_name = {spec.name: spec for spec in _TABLES[family]}
    return (*_COMMON, *(by_name[name] for name in TABLES[family]))
