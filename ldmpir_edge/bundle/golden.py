"""Golden pairs: known engine inputs with the output of the PyTorch fp32 reference."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmpir_edge.bundle.schema import FamilySpec
from ldmpir_edge.errors import BundleError

MAX_GOLDEN_BYTES = 64 * 2**20

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class GoldenPair:
    """Inputs and expected outputs by tensor name, for the sampler's default number of steps."""

    inputs: Arrays
    outputs: Arrays


def pack_golden(pair: GoldenPair) -> bytes:
    """Serialise as an uncompressed npz, the same bytes for the same arrays."""
    buffer = io.BytesIO()
    arrays: Mapping[str, Any] = {**pair.inputs, **pair.outputs}
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def parse_golden(data: bytes, family: FamilySpec, source: str) -> GoldenPair:
    """Read a golden pair from a bundle's entry.

    Parameters
    ----------
    data
        An npz; nothing in it is unpickled.
    family
        Tells inputs from outputs. Inputs that the default variant does not take may be absent.
    source
        The bundle's name, for messages.

    Raises
    ------
    BundleError
        It is not an npz, expands beyond 64 MiB, holds objects, or its names are not the family's.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as container:
            size = sum(info.file_size for info in container.infolist())
        if size > MAX_GOLDEN_BYTES:
            raise ValueError(f"it expands to {size} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as npz:
            arrays = {name: npz[name] for name in npz.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as err:
        raise BundleError(f"{source}: the golden pair of {family.name} is invalid ({err})") from err
    inputs = {t.name: arrays.pop(t.name) for t in family.inputs if t.name in arrays}
    outputs = {t.name: arrays.pop(t.name) for t in family.outputs if t.name in arrays}
    if arrays or len(outputs) != len(family.outputs):
        raise BundleError(
            f"{source}: the golden pair of {family.name} does not hold the family's tensors; "
            "export the bundle again"
        )
    return GoldenPair(inputs, outputs)
