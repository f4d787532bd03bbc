"""Every peer improves on the untreated image of a simulated phantom: it is wired correctly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peers
import pytest
import quality
import torch
from peers import PEERS, MissingPeerError, measurement, tuned

from ldmpir_edge.errors import UsageError
from ldmpir_edge.models.config import ModelConfig
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.models.weights import save_weights
from ldmpir_edge.physics.geometry import RadonGeometry
from ldmpir_edge.physics.radon import RadonOp
from ldmpir_edge.reconstruct.slices import prepare_slice
from ldmpir_edge.report.metrics import psnr
from ldmpir_edge.scans.phantom import head_phantom, rasterise

MU_WATER = 0.0192
PARAMETERS = {
    "sigpy L1-wavelet": {"lam": 0.001, "n_iterations": 60},
    "sigpy TV": {"lam": 0.001, "n_iterations": 100, "dual_step": 0.01},
    "BART pics L1-wavelet": {"lam": 0.001, "n_iterations": 60},
    "BART pics TGV": {"lam": 0.003, "rho": 0.01, "n_iterations": 60},
    "sigpy CG-SENSE": {"lam": 0.01, "n_iterations": 20},
    "astra SIRT": {"n_iterations": 100},
    "astra CGLS": {"n_iterations": 8},
    "FISTA-TV": {"lam": 3e-4, "n_iterations": 30},
    "BM3D": {},
    "non-local means": {},
    "TV": {},
    "biharmonic": {},
    "bicubic": {},
    "Lanczos": {},
    "TV, known blur": {"lam": 1e-5, "n_iterations": 50},
}
GAIN_DB = {"mri": 3.0, "ct": 1.0, "denoise": 3.0, "inpaint": 10.0, "super-resolve": 0.5}


def run(name, task, scan):
    try:
        return PEERS[task][name](**measurement(scan, task), **PARAMETERS[name])
    except MissingPeerError as err:
        pytest.skip(str(err))


def phantom(size, unit, seed=3):
    return rasterise(head_phantom(np.random.default_rng(seed), 0.1), (size, size), unit)


def start(scan, task):
    """What the measurement shows untreated, on the truth's scale."""
    if task == "super-resolve":
        return np.kron(scan.image(0), np.ones((2, 2), np.float32))
    if task == "inpaint":
        image = scan.image(0, missing=True)
        return np.where(np.isnan(image), np.nanmean(image), image)
    prepared = prepare_slice(scan, 0, task)
    return prepared.to_scan(prepared.unreconstructed)


CASES = {
    "MRI, 4 coils, R = 3": (quality.mri(4, 3, "random"), "mr", 128),
    "CT, parallel": (quality.ct(30, 1e6), "hu", 192),
    "CT, fan": (quality.ct(30, 1e6, "fan-equidistant"), "hu", 192),
    "denoise": (quality.image_task("denoise"), "mr", 128),
    "inpaint": (quality.image_task("inpaint"), "mr", 96),
    "super-resolve": (quality.image_task("super-resolve"), "mr", 128),
}
TASK_OF = {"MRI, 4 coils, R = 3": "mri", "CT, parallel": "ct", "CT, fan": "ct"}
PAIRS = [(case, name) for case in CASES for name in PEERS[TASK_OF.get(case, case)]]


@pytest.mark.parametrize(("case", "name"), PAIRS)
def test_a_peer_improves_on_the_untreated_image(case, name, rng):
    make, unit, size = CASES[case]
    modality = "ct" if unit == "hu" else "mr"
    scan, task, reference = make(phantom(size, unit), modality, rng)
    image = run(name, task, scan)
    assert image.dtype == np.float32
    assert image.shape == reference.shape
    before, after = (psnr(x, reference, modality) for x in (start(scan, task), image))
    assert after > before + GAIN_DB[task]


@pytest.mark.parametrize("offset", [0.0, 3.25])
@pytest.mark.parametrize("kind", ["parallel", "fan-equidistant"])
@pytest.mark.parametrize("name", ["astra SIRT", "astra CGLS", "FISTA-TV"])
def test_the_image_lies_where_the_detector_saw_it(name, kind, offset):
    """Two blobs without symmetry, projected by our operator, on a detector moved sideways."""
    fan = {"source_origin_mm": 200.0, "origin_detector_mm": 150.0}
    geometry = RadonGeometry(
        kind,
        np.arange(90) * (1 if kind == "parallel" else 2) * np.pi / 90,
        120,
        detector_spacing_mm=1.5 if kind == "parallel" else 2.5,
        detector_offset=offset,
        **({} if kind == "parallel" else fan),
    )
    y, x = np.mgrid[:60, :70]
    truth = MU_WATER * np.exp(-((x - 45) ** 2) / 60 - ((y - 20) ** 2) / 90).astype(np.float32)
    sinogram = RadonOp(geometry, truth.shape, 1.6).forward(truth)
    parameters = PARAMETERS[name] | ({"lam": 1e-6} if name == "FISTA-TV" else {})
    image = PEERS["ct"][name](sinogram, geometry, truth.shape, 1.6, MU_WATER, **parameters)
    hu = truth / MU_WATER * 1000 - 1000
    assert np.sqrt(np.mean((image - hu) ** 2)) < 25


def test_an_equiangular_fan_is_refused():
    geometry = RadonGeometry(
        "fan-equiangular", [0.0, 1.0], 20, detector_spacing_rad=0.01, source_origin_mm=300.0
    )
    with pytest.raises(UsageError, match="fan-equiangular"):
        PEERS["ct"]["astra SIRT"](np.zeros((2, 20)), geometry, (16, 16), 1.0, MU_WATER)


@pytest.mark.parametrize("name", ["sigpy L1-wavelet", "sigpy TV", "BART pics L1-wavelet"])
def test_the_answer_scales_with_the_measurement(name, rng):
    scan, task, _ = quality.mri(2, 2, "random")(phantom(64, "mr"), "mr", rng)
    given = measurement(scan, task)
    parameters = PARAMETERS[name] | {"n_iterations": 5}
    try:
        peer = PEERS["mri"][name]
        once = peer(**given, **parameters)
    except MissingPeerError as err:
        pytest.skip(str(err))
    louder = peer(**given | {"kspace": 1000 * given["kspace"]}, **parameters)
    np.testing.assert_allclose(louder, 1000 * once, rtol=1e-3, atol=0.5 * once.max())


def test_a_peer_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bm3d", None)
    with pytest.raises(MissingPeerError, match=r"bm3d is not installed: .* its licence"):
        PEERS["denoise"]["BM3D"](np.zeros((8, 8), np.float32), 0.1)
    monkeypatch.setenv("PATH", "")
    given = {"kspace": np.ones((1, 8, 8)), "csm": np.ones((1, 8, 8)), "mask": np.ones(8)}
    with pytest.raises(MissingPeerError, match="apt-get install bart"):
        PEERS["mri"]["BART pics L1-wavelet"](**given, lam=0.1, n_iterations=1)


class TestDds:
    """With a network that changes nothing, the sampler is its data consistency, repeated."""

    @pytest.fixture
    def folder(self, tmp_path):
        torch.manual_seed(0)
        model = LdmPir(ModelConfig(widths=(8, 8, 8, 8), embedding=8, n_krylov=1))
        with torch.no_grad():
            for parameter in model.unet.parameters():
                parameter.zero_()
        save_weights(model, tmp_path / "weights.safetensors")
        return tmp_path

    @pytest.fixture
    def problem(self, rng):
        scan, task, _ = quality.mri(4, 3, "random")(phantom(64, "mr"), "mr", rng)
        return prepare_slice(scan, 0, task).problem

    def test_it_approaches_the_least_squares_image(self, folder, problem):
        from peers.dds import dds, load_step

        from ldmpir_edge.physics.normal import NORMAL_OPERATORS, batch_of_one

        step = load_step(folder, problem, "torch", 1)
        image = dds(problem, step, lam=0.01, t_last=0.1, n_steps=12)
        gram, tables = NORMAL_OPERATORS[problem.family], batch_of_one(problem.tables)

        def left(x):
            return np.linalg.norm(problem.b - gram(x[None], tables)[0])

        assert left(image) < 0.1 * left(problem.x1)

    def test_one_step_is_its_closed_form_where_the_operator_is_diagonal(self, folder, rng):
        from peers.dds import dds, load_step

        scan, task, _ = quality.image_task("inpaint")(phantom(64, "mr"), "mr", rng)
        problem = prepare_slice(scan, 0, task).problem
        image = dds(problem, load_step(folder, problem, "torch", 1), lam=0.5, t_last=1.0, n_steps=1)
        expected = (problem.b + 0.5 * problem.x1) / (problem.tables["mask"] + 0.5)
        np.testing.assert_allclose(image, expected, atol=1e-6)

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_an_engine_takes_the_same_walk(self, folder, problem, backend):
        pytest.importorskip(backend)
        from peers.dds import dds, load_step

        walk = {"lam": 0.1, "t_last": 0.25, "eta": 0.85, "n_steps": 4}
        expected = dds(problem, load_step(folder, problem, "torch", 1), **walk)
        image = dds(problem, load_step(folder, problem, backend, 1), **walk)
        np.testing.assert_allclose(image, expected, atol=2e-4)

    def test_an_unknown_engine_is_refused(self, folder, problem):
        from peers.dds import load_step

        with pytest.raises(UsageError, match="'tensorrt'"):
            load_step(folder, problem, "tensorrt", 1)


def test_tuned_parameters_are_what_the_peers_take():
    document = json.loads(Path(peers.TUNED).read_text())
    assert set(document["cases"]) <= set(quality.CASES)
    for case, rows in document["cases"].items():
        for name, row in rows.items():
            best = max(attempt["psnr_db"] for attempt in row["tried"])
            # The choice is the cheapest near the best of its λ, which a shorter search found.
            assert row["psnr_db"] >= best - 0.3
            assert tuned(case, name) == row["chosen"]
    assert tuned("no such case", "biharmonic") == {}


def test_a_case_without_parameters_of_its_own_takes_those_of_a_tuned_one():
    document = json.loads(peers.TUNED.read_text())
    assert set(peers.TUNED_AS) <= set(quality.FURTHER_CASES)
    assert set(peers.TUNED_AS.values()) <= set(document["cases"])
    for case, like in peers.TUNED_AS.items():
        for name, row in document["cases"][like].items():
            assert tuned(case, name) == row["chosen"]
