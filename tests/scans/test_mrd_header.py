"""What an XML header may say of its own encoding."""

from __future__ import annotations

from pathlib import Path

import pytest

from ldmpir_edge.errors import ScanFormatError
from ldmpir_edge.scans.mrd_header import parse_mrd_header
from ldmpir_edge.scans.sample_files import mrd_xml

BODY = mrd_xml((1, 4, 64, 32)).partition("?>")[2]
# The same in EBCDIC, so that no "<!DOCTYPE" is found in it as text.
ENTITY = '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'.encode("cp037").decode("latin-1")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "u-f-8", "cp037"])
def test_the_declared_encoding_changes_nothing(encoding: str) -> None:
    header = parse_mrd_header(Path("a"), f'<?xml version="1.0" encoding="{encoding}"?>{BODY}')
    assert header.encoded_matrix[:2] == (64, 32)


def test_no_document_type_is_hidden_by_an_encoding() -> None:
    with pytest.raises(ScanFormatError, match="not XML"):
        parse_mrd_header(Path("a"), f'<?xml version="1.0" encoding="cp037"?>{ENTITY}')
