"""A small simulated acquisition, and writers of the input formats that know nothing of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from ldmpir_edge.scans.sample import SAMPLE_KINDS, write_sample

XML = """<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<measurementInformation><protocolName>head</protocolName></measurementInformation>
<acquisitionSystemInformation><systemFieldStrength_T>1.5</systemFieldStrength_T>
</acquisitionSystemInformation>
<experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz>
</experimentalConditions>
<encoding><encodedSpace><matrixSize><x>{x}</x><y>{y}</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>{x}</x><y>{y}</y><z>{zmm}</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{rx}</x><y>{ry}</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>{rx}</x><y>{ry}</y><z>{zmm}</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{maximum}</maximum>
<center>{center}</center></kspace_encoding_step_1></encodingLimits>
<trajectory>cartesian</trajectory>{mode}</encoding>
<sequenceParameters><TR>500</TR><TE>12.5</TE></sequenceParameters></ismrmrdHeader>"""


def fft2c(image: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
    axes = (-2, -1)
    shifted = np.fft.ifftshift(image, axes=axes)
    return np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=axes)


@dataclass(frozen=True)
class Acquisition:
    """Coil images of a phantom with known maps, `(coils, H, W)`."""

    maps: NDArray[np.complex128]
    image: NDArray[np.complex128]
    support: NDArray[np.bool_]

    @property
    def kspace(self) -> NDArray[np.complex64]:
        return fft2c(self.maps * self.image).astype(np.complex64)


def gaussian_maps(shape: tuple[int, int], n_coils: int) -> NDArray[np.complex128]:
    """Coils on a circle, normalised to unit sum of squares."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    turn = 2 * np.pi * np.arange(n_coils)[:, None, None] / n_coils
    distance = (x - 1.2 * np.cos(turn)) ** 2 + (y - 1.2 * np.sin(turn)) ** 2
    maps = np.exp(-distance / 1.6 + 1j * (turn + x * np.cos(turn) - y * np.sin(turn)))
    return maps / np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))


def _simulate(shape: tuple[int, int], n_coils: int) -> Acquisition:
    inner = (int(0.8 * shape[0]), int(0.7 * shape[1]))
    top, left = (shape[0] - inner[0]) // 2, (shape[1] - inner[1]) // 2
    magnitude = np.zeros(shape)
    magnitude[top : top + inner[0], left : left + inner[1]] = resize(shepp_logan_phantom(), inner)
    support = magnitude > 0.05
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return Acquisition(
        maps=gaussian_maps(shape, n_coils),
        image=magnitude * np.exp(1j * (0.7 * x - 0.4 * y**2)),
        support=support,
    )


@pytest.fixture(scope="session")
def acquisition() -> Acquisition:
    return _simulate((96, 80), 6)


@pytest.fixture(scope="session")
def simulate() -> Callable[[tuple[int, int], int], Acquisition]:
    """Make an acquisition of another shape and number of coils."""
    return _simulate


@pytest.fixture
def fastmri_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a fastMRI file from named data sets (None leaves one out)."""

    def write(**datasets: object) -> Path:
        path = tmp_path / "scan.h5"
        with h5py.File(path, "w") as file:
            for name, value in datasets.items():
                if value is not None:
                    file[name] = value
            file.attrs["acquisition"] = "AXT1"
        return path

    return write


@pytest.fixture(scope="session")
def mrd_xml() -> Callable[..., str]:
    """Fill the ISMRMRD header: encoded (x, y, z), reconstructed (x, y) and phase limits."""

    def fill(
        encoded: tuple[int, int, int],
        recon: tuple[int, int],
        center: int,
        maximum: int,
        mode: str = "",
    ) -> str:
        x, y, z = encoded
        return XML.format(
            x=x,
            y=y,
            z=z,
            rx=recon[0],
            ry=recon[1],
            zmm=4 * z,
            center=center,
            maximum=maximum,
            mode=mode,
        )

    return fill


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One sample scan of every kind, of seed 3, alone in one folder."""
    folder = tmp_path_factory.mktemp("samples")
    return {kind: write_sample(kind, folder, seed=3) for kind in SAMPLE_KINDS}
