"""A cache for all commands of this package, and a scan of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_scans import write_dicom, write_fastmri, write_ismrmrd, write_sinogram


@pytest.fixture(scope="session", autouse=True)
def _private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LDMPIR_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, np.ndarray]]:
    """By kind: the file, and the `(slices, H, W)` image that it was made from."""
    folder = tmp_path_factory.mktemp("scans")
    draws = np.random.default_rng(3)
    made = {
        "mri": (folder / "brain.h5", lambda path: write_fastmri(path, n_slices=2)),
        "ismrmrd": (folder / "raw.h5", lambda path: write_ismrmrd(path, draws)),
        "ct": (folder / "head.h5", write_sinogram),
        "ct-fan": (folder / "fan.h5", lambda path: write_sinogram(path, "fan-equidistant")),
        "dicom": (folder / "slice.dcm", lambda path: write_dicom(path, draws)),
    }
    return {kind: (path, write(path)) for kind, (path, write) in made.items()}
