"""The stored integers of a DICOM image and the scale that turns them back into values.

CT states its scale as Modality LUT. The MR Image IOD has none, and the magnitude of raw data
(1e-5, say) would be cut to zero by viewers that round the Modality LUT's output, so MR from raw
data keeps plain integers and states the scale as a real-world value mapping (PS3.3 C.7.6.16.2.11).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from ldmpir_edge.physics.problem import Modality
from ldmpir_edge.scans.writers.dicom.codes import code

IntPixels = NDArray[np.int16] | NDArray[np.uint16]

MR_PEAK_LEVEL = 32767
"""Stored level of the brightest voxel of MR from raw data: some viewers read uint16 as signed."""


@dataclass(frozen=True)
class StoredScale:
    """A value is `stored * slope + intercept`.

    Parameters
    ----------
    slope, intercept
        For a Modality LUT, exactly as its decimal text in the file says: quantising with the
        rounded number keeps a reader within half a grey level.
    signed
        Stored as int16 rather than uint16.
    stated_as
        How the file gives the scale; `nothing` where slope is 1 and intercept 0.
    unit
        Rescale Type of a Modality LUT: HU, or US for unspecified.
    """

    slope: float
    intercept: float
    signed: bool
    stated_as: Literal["modality lut", "real-world value", "nothing"]
    unit: str = "US"

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and largest stored integer."""
        limits = np.iinfo(np.int16 if self.signed else np.uint16)
        return int(limits.min), int(limits.max)


CT_SCALE = StoredScale(1.0, 0.0, signed=True, stated_as="modality lut", unit="HU")
"""One grey level is 1 HU; metal may reach 32,767 HU."""


def mr_scale(lowest: float, peak: float) -> StoredScale:
    """Choose the scale that puts `peak`, the volume's brightest voxel, at `MR_PEAK_LEVEL`.

    One scale serves a whole series, so that its slices can be compared and windowed together.
    Where the volume's lowest voxel is negative (an image that is no magnitude), integers are
    signed, and the larger of the two sizes is at that level.
    """
    size = max(peak, -lowest)
    slope = size / MR_PEAK_LEVEL if size > 0 else 1.0
    return StoredScale(slope, 0.0, signed=lowest < 0, stated_as="real-world value")


def inherited_scale(source: Dataset, modality: Modality) -> StoredScale:
    """Keep the stored scale of `source`; where it states none, the stored value is the value."""
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    signed = bool(source.get("PixelRepresentation", 0))
    if not slope or intercept is None:
        if modality == "mr":
            return StoredScale(1.0, 0.0, signed, "nothing")
        slope, intercept = 1.0, 0.0
    return StoredScale(
        float(format_number_as_ds(float(slope))),
        float(format_number_as_ds(float(intercept))),
        signed,
        "modality lut",
        source.get("RescaleType") or ("HU" if modality == "ct" else "US"),
    )


def to_stored(image: NDArray[np.float32], scale: StoredScale) -> tuple[IntPixels, int]:
    """Quantise `image` to the nearest stored integer.

    Parameters
    ----------
    image
        `(H, W)` on the scan's scale, finite.
    scale
        The scale of the file.

    Returns
    -------
        The integers, little-endian, and how many values lay outside the range and were clipped
        to its ends.
    """
    low, high = scale.limits
    levels = np.rint((image.astype(np.float64) - scale.intercept) / scale.slope)
    n_clipped = int(np.count_nonzero((levels < low) | (levels > high)))
    clipped = np.clip(levels, low, high)
    return clipped.astype("<i2" if scale.signed else "<u2"), n_clipped


def add_pixels(ds: Dataset, image: NDArray[np.float32], scale: StoredScale) -> int:
    """Add pixel data, its description and its scale to `ds`; give the number of clipped pixels."""
    stored, n_clipped = to_stored(image, scale)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(scale.signed)
    if scale.stated_as == "modality lut":
        ds.RescaleSlope = format_number_as_ds(scale.slope)
        ds.RescaleIntercept = format_number_as_ds(scale.intercept)
        ds.RescaleType = scale.unit
    elif scale.stated_as == "real-world value":
        ds.RealWorldValueMappingSequence = [_real_world_mapping(scale)]
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    return n_clipped


def add_window(ds: Dataset, window: tuple[float, float], scale: StoredScale) -> None:
    """Add a (black, white) window of values, in the output of the Modality LUT."""
    low, high = window
    if scale.stated_as != "modality lut":
        low, high = ((value - scale.intercept) / scale.slope for value in (low, high))
    ds.WindowCenter = format_number_as_ds((low + high) / 2)
    ds.WindowWidth = format_number_as_ds(max(high - low, 1.0))  # PS3.3 C.11.2.1.2: at least 1


def _real_world_mapping(scale: StoredScale) -> Dataset:
    item = Dataset()
    item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped = scale.limits
    item.RealWorldValueSlope = scale.slope
    item.RealWorldValueIntercept = scale.intercept
    item.LUTExplanation = "Values on the scale of the input"
    item.LUTLabel = "SIGNAL"
    item.MeasurementUnitsCodeSequence = [code("1", "no units", scheme="UCUM")]
    for keyword in ("RealWorldValueFirstValueMapped", "RealWorldValueLastValueMapped"):
        item[keyword].VR = "SS" if scale.signed else "US"
    return item
