"""The sinogram contract of docs/formats.md, field by field."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ldmpir_edge.errors import ScanDataError, ScanFormatError
from ldmpir_edge.scans.detect import open_scan
from ldmpir_edge.scans.model import SinogramScan

PARALLEL = {
    "format": "ldmpir-sinogram",
    "version": 1,
    "geometry": "parallel",
    "detector_spacing_mm": 1.5,
    "detector_offset": 0.25,
    "recon_matrix": np.array([24, 32]),
    "pixel_spacing_mm": 0.8,
}
FAN = {**PARALLEL, "geometry": "fan-equidistant", "source_origin_mm": 540.0}


@pytest.fixture
def write(tmp_path, rng):
    """Write a sinogram file; None takes an attribute or a data set out."""

    def write_file(attributes, **datasets):
        path = tmp_path / "sinogram.h5"
        data = {
            "sinogram": rng.random((2, 9, 40)).astype(np.float32),
            "angles_rad": np.linspace(0, np.pi, 9),
            **datasets,
        }
        with h5py.File(path, "w") as file:
            for name, value in attributes.items():
                if value is not None:
                    file.attrs[name] = value
            for name, value in data.items():
                if value is not None:
                    file[name] = value
        return path

    return write_file


def test_parallel_scan(write, rng):
    data = rng.random((2, 9, 40)).astype(np.float32)
    reference = rng.standard_normal((2, 24, 32)).astype(np.float32)
    attributes = {**PARALLEL, "photons": 1e5, "mu_water_per_mm": 0.02}
    with open_scan(write(attributes, sinogram=data, reference=reference)) as scan:
        assert isinstance(scan, SinogramScan)
        assert (scan.n_slices, scan.image_shape) == (2, (24, 32))
        np.testing.assert_array_equal(scan.sinogram(1), data[1])
        np.testing.assert_array_equal(scan.reference(0), reference[0])
        geometry = scan.geometry
        assert (geometry.kind, geometry.n_detectors, geometry.n_views) == ("parallel", 40, 9)
        assert (geometry.detector_spacing_mm, geometry.detector_offset) == (1.5, 0.25)
        np.testing.assert_array_equal(geometry.angles_rad, np.linspace(0, np.pi, 9))
        assert (scan.photons, scan.mu_water_per_mm, scan.pixel_spacing_mm) == (1e5, 0.02, 0.8)
        assert scan.info.modality == "ct"
        assert scan.info.pixel_spacing_mm == (0.8, 0.8)


def test_optional_fields_have_documented_defaults(write):
    with open_scan(write({**PARALLEL, "detector_offset": None})) as scan:
        assert scan.photons is None
        assert scan.mu_water_per_mm == 0.0192
        assert scan.geometry.detector_offset == 0.0
        assert scan.reference(0) is None


def test_equidistant_fan(write):
    with open_scan(write({**FAN, "origin_detector_mm": 400.0})) as scan:
        assert scan.geometry.kind == "fan-equidistant"
        assert scan.geometry.source_origin_mm == 540.0
        assert scan.geometry.origin_detector_mm == 400.0


def test_equiangular_fan(write):
    fan = {**FAN, "geometry": "fan-equiangular", "detector_spacing_mm": None}
    with open_scan(write({**fan, "detector_spacing_rad": 0.002})) as scan:
        assert scan.geometry.detector_spacing_rad == 0.002
        assert scan.geometry.detector_spacing_mm is None


def test_text_attributes_may_be_bytes(write):
    with open_scan(write({**PARALLEL, "geometry": np.bytes_(b"parallel")})) as scan:
        assert scan.geometry.kind == "parallel"


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ({"format": "other"}, ScanFormatError, "format is 'other'"),
        ({"format": None}, ScanFormatError, "format is missing"),
        ({"format": 7}, ScanFormatError, "must be text"),
        ({"version": 2}, ScanFormatError, "version 2 is unknown"),
        ({"geometry": "helical"}, ScanFormatError, "'helical'"),
        ({"geometry": "fan-equidistant"}, ScanFormatError, "source_origin_mm is missing"),
        ({"detector_spacing_mm": None}, ScanFormatError, "detector_spacing_mm is missing"),
        ({"detector_spacing_mm": -1.0}, ScanDataError, "detector_spacing_mm is -1"),
        ({"detector_spacing_mm": "wide"}, ScanFormatError, "one number"),
        ({"pixel_spacing_mm": 0.0}, ScanDataError, "pixel_spacing_mm"),
        ({"recon_matrix": np.array([0, 8])}, ScanDataError, "height is 0"),
        ({"recon_matrix": np.array([8, 10**9])}, ScanDataError, "width is 1000000000"),
        ({"recon_matrix": np.array([8.5, 8.5])}, ScanFormatError, "two integers"),
        ({"photons": np.nan}, ScanDataError, "photons is nan"),
        ({"mu_water_per_mm": -0.02}, ScanDataError, "mu_water_per_mm"),
    ],
)
def test_bad_attributes_are_refused(write, attributes, error, message):
    path = write({**PARALLEL, **attributes})
    with pytest.raises(error, match=message) as caught, open_scan(path):
        pass
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("datasets", "error", "message"),
    [
        ({"angles_rad": np.zeros(8)}, ScanDataError, "8 entries and /sinogram 9 views"),
        ({"angles_rad": np.full(9, np.nan)}, ScanDataError, "finite"),
        ({"angles_rad": None}, ScanFormatError, "no data set /angles_rad"),
        ({"sinogram": None}, ScanFormatError, "no data set /sinogram"),
        ({"sinogram": np.zeros((9, 40), "f4")}, ScanFormatError, "2 axes"),
        ({"sinogram": np.zeros((1, 9, 0), "f4")}, ScanDataError, "detectors is 0"),
        ({"sinogram": np.zeros((1, 9, 40), "c8")}, ScanFormatError, "dtype complex64"),
        ({"sinogram": np.zeros((1, 9, 40), "i4")}, ScanFormatError, "dtype int32"),
        ({"reference": np.zeros((2, 24, 31), "f4")}, ScanDataError, "/reference has shape"),
    ],
)
def test_bad_data_sets_are_refused(write, datasets, error, message):
    with pytest.raises(error, match=message), open_scan(write(PARALLEL, **datasets)):
        pass


def test_values_that_are_not_finite_are_refused(write):
    data = np.zeros((1, 9, 40), np.float32)
    data[0, 3, 3] = np.inf
    path, message = write(PARALLEL, sinogram=data), "sinogram of slice 0 holds 1 NaN or infinite"
    with open_scan(path) as scan, pytest.raises(ScanDataError, match=message):
        scan.sinogram(0)
