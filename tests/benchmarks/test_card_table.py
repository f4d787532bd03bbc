"""The card's table of results."""

from __future__ import annotations

import card_table


def scores(psnr_db, ssim):
    return {"psnr_db": psnr_db, "ssim": ssim}


def test_a_case_is_set_against_its_best_peer_and_the_version_before():
    case = {
        "untreated": scores(20, 0.5),
        "classical": scores(25, 0.6),
        "ours, 1 steps": scores(29, 0.7),
        "ours, 4 steps": scores(31, 0.9),
        "ours, 8 steps": scores(32, 0.91),
        "TV": scores(30.5, 0.8),
        "wavelets": scores(30.0, 0.95),
    }
    before = {"case": {"ours, 4 steps": scores(30.75, 0.9)}}
    *_, first, second = card_table.table({"case": case, "new case": case}, before, "0.1.0")
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[3] == "30.50 / 0.800 (TV)"
    assert cells[5] == "**31.00 / 0.900**"
    assert cells[7:] == ["+0.50", "+0.25"]
    assert second.endswith("| +0.50 |  |")


def test_a_case_without_peers_has_no_lead():
    case = {name: scores(30, 0.9) for name in (*card_table.BASELINES,)}
    *_, row = card_table.table({"case": case}, {}, "0.1.0")
    assert row.split("|")[4].strip() == ""
    assert row.split("|")[8].strip() == ""
