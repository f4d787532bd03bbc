"""The shapes that an engine serves hold every scan within the limits."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_problems import tiny_problem

from ldmpir_edge.bundle import LoadedVariant, ModelInfo, SizeLimits, TypicalScan, open_bundle
from ldmpir_edge.physics.ct_problem import MAX_RAY_TABLE_ENTRIES
from ldmpir_edge.physics.engine_input import engine_arrays
from ldmpir_edge.physics.problem import FAMILIES, Family
from ldmpir_edge.runtimes.tensorrt import profiles
from ldmpir_edge.runtimes.tensorrt.listeners import Phases
from ldmpir_edge.runtimes.tensorrt.profiles import Profile, make_profile

LIMITS = SizeLimits(
    min_height=16, max_height=1024, min_width=32, max_width=768, max_coils=32, max_views=4000
)


def shipped_profile(family: Family, n_steps: int = 4, **typical: Any) -> Profile:
    spec = open_bundle("ldmpir-2m").manifest.family(family)
    inputs = tuple(t for t in spec.inputs if n_steps > 1 or t.name != "noise")
    variant = LoadedVariant(
        graph=Path("absent.onnx"),
        family=family,
        n_steps=n_steps,
        precision="fp16",
        inputs=inputs,
        outputs=spec.outputs,
        model=ModelInfo(id="toy", version="1.0", n_parameters=4, licence="Apache-2.0"),
        source_hashes={},
    )
    return make_profile(variant, LIMITS, TypicalScan(**typical))


def test_shapes_of_a_cartesian_scan() -> None:
    profile = shipped_profile("cartesian1d", height=320, width=256, coils=16)
    assert profile["b"] == ((1, 2, 16, 32), (1, 2, 320, 256), (1, 2, 1024, 768))
    assert profile["csm_halves"] == (
        (1, 4, 1, 16, 16),
        (1, 4, 16, 320, 128),
        (1, 4, 32, 1024, 384),
    )
    # Any number of columns may be sampled; a quarter of them is typical.
    assert profile["cos"] == profile["sin"] == ((16, 1), (128, 64), (384, 768))
    assert profile["noise"][2] == (1, 3, 2, 1024, 768)
    assert profile["noise_level"] == ((1,), (1,), (1,))


def test_shapes_of_a_convolution() -> None:
    profile = shipped_profile("toeplitz", height=256, width=256)
    assert profile["kernel"] == ((32, 33), (512, 257), (2048, 769))
    assert profile["dft_w"][1] == (256, 257, 2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_steps", [1, 4])
def test_every_profile_is_in_order_and_addressable(family: Family, n_steps: int) -> None:
    for smallest, typical, largest in shipped_profile(family, n_steps).values():
        for low, middle, high in zip(smallest, typical, largest, strict=True):
            assert 1 <= low <= middle <= high
        assert np.prod(np.array(largest, np.int64)) < 2**31


@pytest.mark.parametrize("family", FAMILIES)
def test_a_real_problem_fits(family: Family) -> None:
    profile = shipped_profile(family)
    for name, array in engine_arrays(tiny_problem(family), 4).items():
        smallest, _, largest = profile[name]
        for low, size, high in zip(smallest, array.shape, largest, strict=True):
            assert low <= size <= high, name


def test_typical_sizes_are_kept_within_the_limits() -> None:
    profile = shipped_profile("cartesian1d", height=4096, width=8, coils=64)
    assert profile["csm_halves"][1] == (1, 4, 32, 1024, 16)


def test_the_ray_tables_of_usual_sizes_fit() -> None:
    """`ct_problem` makes tables up to a number of entries; these must not be refused later."""
    for size, views in itertools.product((128, 256, 512), (30, 60, 120)):
        rays = views * min(2 * size, profiles.MAX_DETECTORS)
        if 3 * rays * size <= MAX_RAY_TABLE_ENTRIES:
            assert rays <= profiles.MAX_RAYS
            assert 4 * views <= profiles.MAX_BINS_PER_PIXEL
    assert 3 * profiles.MAX_RAYS * 128 >= MAX_RAY_TABLE_ENTRIES


def test_phases_inside_one_another_are_one_number() -> None:
    phases = Phases()
    phases.start("build", None, 4)
    assert phases.complete("build", 0) == 0.25
    phases.start("tactics", "build", 2)
    assert phases.complete("tactics", 0) == 0.375
    phases.start("node", "tactics", 10)
    # Half of the node, which is a quarter of the tactics' second step.
    assert phases.complete("node", 4) == pytest.approx((1 + (1 + 0.5) / 2) / 4)
    phases.finish("node")
    assert phases.complete("tactics", 1) == 0.5
    phases.finish("tactics")
    # A phase that starts again does not turn the number back, and one unknown leaves it.
    phases.start("tactics", "build", 100)
    assert phases.complete("tactics", 0) == 0.5
    assert phases.complete("nobody", 3) == 0.5
    assert phases.complete("build", 3) == 1.0
