"""The page: images that survive the way, text that cannot break out, and nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import re
import sys

import numpy as np
import pytest
from html_page import HtmlPage

from ldmpir_edge.errors import MissingExtraError, OutputError
from ldmpir_edge.report.html import Page, PageSlice, Panel, Table, pack, write_page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"' {{ 7 * 7 }}"


def make_page(image, **changes):
    fields = {
        "title": "a scan",
        "subtitle": "of something",
        "software": "ldmpir-edge 1",
        "unit": "",
        "window": (0.0, 1.0),
        "gain": 5,
        "pixel_spacing_mm": None,
        "panels": (Panel("ours", "Ours", "grey"), Panel("apart", "Apart", "colour", magnified=20)),
        "slices": (PageSlice(7, {"ours": pack(image)}),),
        "flicker": ("ours", "ours"),
    }
    return Page(**fields | changes)


@pytest.mark.parametrize(
    "image",
    [
        np.linspace(-1000, 3000, 35, dtype=np.float32).reshape(5, 7),
        np.random.default_rng(0).normal(0, 3e-5, (16, 9)),
        np.full((3, 4), 4.5),
        np.eye(4, 6) == 1,
    ],
    ids=["ct", "noise", "constant", "mask"],
)
def test_an_image_comes_out_as_it_went_in(tmp_path, image):
    write_page(tmp_path / "a.html", make_page(image))
    seen = HtmlPage(tmp_path / "a.html").image(0, "ours")
    values = image.astype(np.float64)
    assert np.abs(seen - values).max() <= 0.5000001 * np.ptp(values) / 65535
    # Both ends are exact: what is black and what is white is not shifted.
    assert (seen.min(), seen.max()) == pytest.approx((values.min(), values.max()), rel=1e-12)


def test_all_text_comes_out_as_text(tmp_path):
    page = make_page(
        np.eye(4),
        title=HOSTILE,
        subtitle=HOSTILE,
        software=HOSTILE,
        unit=HOSTILE,
        panels=(Panel("ours", HOSTILE, "grey"),),
        slices=(PageSlice(0, {"ours": pack(np.eye(4))}, {"ours": HOSTILE}, HOSTILE),),
        warnings=(HOSTILE,),
        tables=(Table(HOSTILE, (HOSTILE, ""), ((HOSTILE, HOSTILE),), (HOSTILE,)),),
    )
    write_page(tmp_path / "a.html", page)
    write_page(tmp_path / "tame.html", make_page(np.eye(4), panels=page.panels[:1]))
    seen, tame = HtmlPage(tmp_path / "a.html"), HtmlPage(tmp_path / "tame.html")
    assert "img" not in dict(seen.tags)
    # No script but those of any other page.
    assert len(seen.scripts) == len(tame.scripts)
    assert seen.scripts[-1] == tame.scripts[-1]
    assert seen.text.count(HOSTILE) == 11
    assert seen.tables[HOSTILE] == [[HOSTILE, ""], [HOSTILE, HOSTILE]]
    assert seen.data["unit"] == seen.data["slices"][0]["warning"] == HOSTILE
    assert seen.data["panels"][0]["heading"] == HOSTILE


def test_nothing_is_loaded_and_nothing_else_can_run(tmp_path):
    write_page(tmp_path / "a.html", make_page(np.eye(4), title="http://elsewhere.example/x.js"))
    page = HtmlPage(tmp_path / "a.html")
    for tag, attributes in page.tags:
        assert not {"src", "href", "srcset", "action", "style"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
    assert not re.search(r"url\(|@import|https?:", "".join(page.styles))
    code = [text for attributes, text in page.scripts if "type" not in attributes]
    assert len(code) == 1
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|eval\(|innerHTML", code[0])
    (policy,) = [
        attributes["content"]
        for tag, attributes in page.tags
        if tag == "meta" and "http-equiv" in attributes
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for rule, text in (("script-src", code[0]), ("style-src", page.styles[0])):
        digest = hashlib.sha256(text.encode()).digest()
        assert rules[rule] == f"'sha256-{base64.b64encode(digest).decode()}'"


def test_the_scripts_and_the_page_agree_on_the_keys_of_its_elements(tmp_path):
    write_page(tmp_path / "a.html", make_page(np.eye(4)))
    page = HtmlPage(tmp_path / "a.html")
    wanted = set(re.findall(r'(?:byId|getElementById)\("([\w-]+)"\)', page.scripts[-1][1]))
    assert len(wanted) > 8
    assert wanted <= {attributes.get("id") for _, attributes in page.tags}


def test_a_magnified_map_says_so(tmp_path):
    write_page(tmp_path / "a.html", make_page(np.eye(4)))
    assert "2 Apart ×20" in HtmlPage(tmp_path / "a.html").text


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="folder does not exist"):
        write_page(tmp_path / "none" / "a.html", make_page(np.eye(4)))
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"ldmpir-edge\[report\]"):
        write_page(tmp_path / "a.html", make_page(np.eye(4)))
    assert list(tmp_path.iterdir()) == []
