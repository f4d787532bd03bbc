"""Acquisition tables whose type is damaged: refused as no table, whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_scans import write_ismrmrd

from ldmpir_edge.errors import ScanFormatError
from ldmpir_edge.scans.detect import open_scan


@pytest.mark.parametrize(
    "name", ["discard_post", "kspace_encode_step_1", "repetition", "read_dir", "sample_time_us"]
)
def test_a_header_without_a_field_that_is_read_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.h5"
    write_ismrmrd(path, np.random.default_rng(0))
    data = path.read_bytes()
    assert data.count(name.encode() + b"\0") == 1
    path.write_bytes(data.replace(name.encode() + b"\0", name[:-1].encode() + b"?\0"))
    with pytest.raises(ScanFormatError, match="not a table of ISMRMRD"), open_scan(path):
        pass
