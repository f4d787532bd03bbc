"""Which of many scans are learned from: the newest of one protocol, and none that is of no use."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

from site_scans import write_site

from ldmpir_edge.errors import SealError
from ldmpir_edge.finetuning.scans import ScanSource, load_scans, read_scans
from ldmpir_edge.finetuning.selection import WANTED_SCANS, select_scans
from ldmpir_edge.scans.detect import open_scan


def sources(paths):
    return [ScanSource(f"{n}", partial(open_scan, path)) for n, path in enumerate(paths)]


def select(paths, loss="equivariant", noise_level=None):
    return select_scans(sources(paths), loss, noise_level, lambda n_done: None)


def names(selection):
    return [scan.source.name for scan in selection.chosen]


def test_the_first_five_of_a_protocol_are_taken_and_no_more_looked_at(site, tmp_path):
    more = write_site(tmp_path, "mri", 7)
    selection = select(more)
    assert names(selection) == ["0", "1", "2", "3", "4"]
    assert selection.left_out == {}
    five = read_scans(selection.chosen, "equivariant")
    assert five.digests == load_scans(more[:WANTED_SCANS], "equivariant").digests
    assert len(five.slices) == 5


def test_the_most_frequent_protocol_wins_and_of_two_the_newer(site):
    mri, ct = site("mri"), site("ct")
    assert names(select([ct[0], *mri[:3], ct[1]])) == ["1", "2", "3"]
    assert names(select([ct[0], mri[0], ct[1], mri[1]])) == ["0", "2"]
    left = select([ct[0], *mri[:3], ct[1]]).left_out
    assert {name: str(err) for name, err in left.items()} == dict.fromkeys(
        ["0", "4"], "it is of another protocol"
    )


def test_what_nothing_can_be_learned_from_is_left_out(site, tmp_path):
    full = write_site(tmp_path / "full", "mri", 1, acceleration=1)
    nan = write_site(tmp_path / "nan", "mri", 1, nan=True)
    (tmp_path / "none").write_bytes(b"no scan")
    mri = site("mri")
    selection = select([*full, mri[0], *nan, mri[0], tmp_path / "none", *mri[1:3]])
    assert names(selection) == ["1", "5", "6"]
    assert list(selection.left_out) == ["0", "2", "3", "4"]
    words = ["fully sampled", "NaN", "the same as another", "not a scan"]
    for err, word in zip(selection.left_out.values(), words, strict=True):
        assert word in str(err)


def test_a_scan_that_does_not_open_is_left_out_with_its_error(site):
    def broken():
        raise SealError("sealed with another key")

    selection = select_scans(
        [ScanSource("0", broken), *sources(site("mri"))[1:]], "equivariant", None, print
    )
    assert names(selection) == ["1", "2", "3", "4"]
    assert isinstance(selection.left_out["0"], SealError)


def test_scans_are_opened_one_after_another(site):
    """A collected scan is in memory while it is open: five at once would be too many."""
    n_open = 0

    def counting(path):
        @contextmanager
        def opened():
            nonlocal n_open
            n_open += 1
            assert n_open == 1
            with open_scan(path) as scan:
                yield scan
            n_open -= 1

        return opened

    given = [ScanSource(str(n), counting(path)) for n, path in enumerate(site("mri"))]
    selection = select_scans(given, "equivariant", None, lambda n_done: None)
    assert len(read_scans(selection.chosen, "equivariant").slices) == 5


def test_no_scans_are_no_selection():
    assert select([]).chosen == []


def test_what_does_not_serve_the_loss_is_left_out(site):
    selection = select(site("image"), "supervised")
    assert selection.chosen == []
    assert "no reference" in str(selection.left_out["0"])
