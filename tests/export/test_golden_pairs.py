"""Which slice becomes a family's golden pair."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ldmpir_edge.bundle import GoldenPair
from ldmpir_edge.bundle.limits import LIMITS
from ldmpir_edge.errors import BackendError, GateError
from ldmpir_edge.export import bundle_writer, gate
from ldmpir_edge.export.bundle_writer import golden_pairs
from ldmpir_edge.export.gate import golden_margins_db
from ldmpir_edge.physics.problem import FAMILIES

TARGET = SimpleNamespace(default_n_steps=4)
VARIANTS = [
    SimpleNamespace(family=family, n_steps=4, precision=precision)
    for family in FAMILIES
    for precision in ("fp32", "int8")
]


@pytest.fixture
def faked(monkeypatch):
    """Name pairs in place of making them; margins by precision, for the first and second slice."""
    monkeypatch.setattr(bundle_writer, "reference_image", lambda *_: np.zeros((2, 4, 4)))
    monkeypatch.setattr(bundle_writer, "engine_arrays", lambda problem, _: {"b": problem})
    monkeypatch.setattr(bundle_writer, "pack_golden", lambda pair: pair.inputs["b"])

    def choose(margins, must_pass=True):
        monkeypatch.setattr(
            bundle_writer, "golden_margins_db", lambda variant, _: margins[variant.precision]
        )
        cases = {f: [SimpleNamespace(problem=f"{f} {k}") for k in range(2)] for f in FAMILIES}
        return golden_pairs(None, cases, TARGET, VARIANTS, must_pass=must_pass)

    return choose


def test_it_is_the_one_that_the_worst_precision_reproduces_best(faked):
    chosen = faked({"fp32": [40.0, 20.0], "int8": [-2.0, 9.0]})
    assert chosen == {f"golden/{family}.npz": f"{family} 1" for family in FAMILIES}


def test_none_that_every_precision_reproduces_is_an_error(faked):
    margins = {"fp32": [40.0, -1.0], "int8": [-2.5, 9.0]}
    with pytest.raises(GateError, match="too much; leave out a precision"):
        faked(margins)
    # Without the gate nobody was promised an image.
    assert len(faked(margins, must_pass=False)) == len(FAMILIES)


def test_a_margin_is_what_verify_asks_for(monkeypatch):
    image = np.ones((2, 4, 4), np.float32)
    outputs = iter([image, image + np.float32(1e-3), BackendError("no")])

    class Engine:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def run(self, _):
            output = next(outputs)
            if isinstance(output, Exception):
                raise output
            return {"image": output[None]}

    backend = SimpleNamespace(load=lambda _: Engine())
    monkeypatch.setattr(gate, "get_backend", lambda _: backend)
    pair = GoldenPair({}, {"image": image[None]})
    exact, near, none = golden_margins_db(SimpleNamespace(precision="int8"), [pair] * 3)
    # A peak of √2 and an error of √2 · 10⁻³ are 60 dB apart; 39.1 are asked for.
    assert near == pytest.approx(60 - 39.1, abs=0.1)
    assert exact > 100
    assert none == -np.inf


def test_fp32_is_held_to_its_largest_difference_too():
    # Twice a grey level of 12 bits, in one value of an image that is else the same: 6 dB too much.
    spare = LIMITS["fp32"].to_spare_db(120.0, 1 / 2048)
    assert min(spare.values()) == pytest.approx(-6.02, abs=0.01)
    assert min(LIMITS["int8"].to_spare_db(120.0, 1 / 2048).values()) > 50
