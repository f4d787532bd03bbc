"""The page in a real browser: what it shows, and that the keyboard alone does everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium, find_chromium

from ldmpir_edge.report.html import Page, PageSlice, Panel, Table, pack, write_page

SIZE = 32
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium found; apt-get install chromium")
    with Chromium(program) as chromium:
        yield chromium


def slice_images(index: int) -> dict[str, np.ndarray]:
    """Ours is the reference but for one pixel, which is 0.25 too bright."""
    ramp = np.tile(np.linspace(0, 1, SIZE), (SIZE, 1)) * (1 + index)
    ours = ramp.copy()
    ours[4, 3] += 0.25
    return {
        "ours": ours,
        "classical": 0.5 * ramp,
        "reference": ramp,
        "measured": np.eye(20, SIZE),
        "residual": 0.01 * ramp,
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slices; the second has no reference, and a warning."""
    slices = []
    for index in (3, 5, 8):
        images = slice_images(index)
        if index == 5:
            del images["reference"]
        slices.append(
            PageSlice(
                index,
                {key: pack(image) for key, image in images.items()},
                {"ours": f"{index} dB"},
                HOSTILE if index == 5 else "",
            )
        )
    tables = (
        Table("Checks", ("slice", *["a long heading"] * 9), [["1"] * 10] * 3),
        Table("Provenance", ("", ""), [["SHA-256", "0123456789abcdef" * 4]]),
    )
    path = tmp_path_factory.mktemp("page") / "a.html"
    write_page(
        path,
        Page(
            title="a_name_without_any_place_to_break_it_" * 4,
            subtitle=HOSTILE,
            software="ldmpir-edge 1",
            unit="HU",
            window=(0.0, 1.0),
            gain=2,
            pixel_spacing_mm=(1.0, 2.0),
            panels=(
                Panel("classical", "Classical", "grey"),
                Panel("ours", "Ours", "grey"),
                Panel("reference", "Reference", "grey"),
                Panel("measured", "Measured", "own"),
                Panel("error", "Error", "colour", ("ours", "reference")),
                Panel("residual", "Residual", "colour", magnified=10),
            ),
            slices=slices,
            flicker=("ours", "classical"),
            tables=tables,
        ),
    )
    return path


@pytest.fixture
def shown(browser: Chromium, page: Path) -> Chromium:
    browser.errors.clear()
    browser.requests.clear()
    browser.open(page, 1280)
    return browser


def colour(browser: Chromium, key: str, x: float = 0.5, y: float = 0.5) -> list[int]:
    """The colour at a place of a panel, fractions of its canvas."""
    return browser.evaluate(
        f"""(() => {{
          const canvas = document.querySelector('.panel[data-key="{key}"] > canvas');
          const [x, y] = [Math.floor({x} * canvas.width), Math.floor({y} * canvas.height)];
          return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data.slice(0, 3)];
        }})()"""
    )


def value(browser: Chromium, name: str) -> float:
    return float(browser.evaluate(f"document.getElementById('{name}').value"))


def text(browser: Chromium, selector: str) -> str:
    return browser.evaluate(f"document.querySelector({selector!r}).textContent")


def visible(browser: Chromium) -> list[str]:
    return browser.evaluate(
        "[...document.querySelectorAll('.panel')].filter(p => p.offsetParent)"
        ".map(p => p.dataset.key)"
    )


def box(browser: Chromium, key: str) -> tuple[float, float, float, float]:
    """Left, top, width and height of a panel's canvas on the screen."""
    return browser.evaluate(
        f"""(() => {{
          const canvas = document.querySelector('.panel[data-key="{key}"] > canvas');
          canvas.scrollIntoView({{block: "center"}});
          const box = canvas.getBoundingClientRect();
          return [box.left, box.top, box.width, box.height];
        }})()"""
    )


def go_to_first(browser: Chromium) -> None:
    browser.press("Home")
    browser.settle()


def test_it_loads_without_complaint_and_asks_for_nothing(shown, page):
    assert shown.errors == []
    assert shown.requests == [page.resolve().as_uri()]
    assert shown.evaluate("document.title").startswith("a_name")
    # A warning from elsewhere is text; what it holds was neither run nor loaded.
    assert text(shown, "#slice-warning") == HOSTILE
    assert shown.evaluate("document.images.length") == 0
    # The policy holds: a script that gets in all the same does not run.
    shown.evaluate(
        "document.body.append(Object.assign(document.createElement('script'),"
        "{textContent: 'document.title = \"taken\"'}))"
    )
    assert shown.evaluate("document.title").startswith("a_name")
    assert any("Content Security Policy" in error for error in shown.errors)


def test_pixels_have_their_values(shown):
    go_to_first(shown)
    # Slice 3's reference runs from 0 to 4 over the row, the window from 0 to 1.
    for place in range(0, SIZE, 3):
        x = (place + 0.5) / SIZE
        expected = 255 * min(4 * place / (SIZE - 1), 1)
        assert colour(shown, "reference", x) == pytest.approx([expected] * 3, abs=1)
        assert colour(shown, "classical", x) == pytest.approx(
            [255 * min(2 * place / (SIZE - 1), 1)] * 3, abs=1
        )
    # Beside its brighter pixel, where the row falls again, ours is the reference.
    x, y = 5.5 / SIZE, 4.5 / SIZE
    assert colour(shown, "ours", x, y) == colour(shown, "reference", x, y)
    assert 0 < colour(shown, "ours", x, y)[0] < 255
    # The error is 0.25 at one pixel, and the colours end at 1/2 there: half way up inferno.
    x, y = 3.5 / SIZE, 4.5 / SIZE
    assert colour(shown, "error", x, y) == pytest.approx([188, 55, 84], abs=3)
    assert colour(shown, "error", 0.5, 0.5) == pytest.approx([0, 0, 4], abs=1)
    # The residual is shown ten times as large: 0.04 at the right, of 0.05.
    assert colour(shown, "residual", 31.5 / SIZE) == pytest.approx([251, 166, 15], abs=3)
    assert text(shown, "#colour-end") == "0.5 HU"
    # Pixels twice as wide as high stay so.
    _, _, width, height = box(shown, "ours")
    assert width == pytest.approx(2 * height, abs=2)


def test_slices_by_keys_and_by_the_slider(shown):
    assert text(shown, "#slice-number") == "5"
    assert shown.evaluate("document.getElementById('slice-warning').hidden") is False
    # No reference, so no error either.
    assert colour(shown, "ours", 0.999) == [255] * 3
    empty = shown.evaluate(
        "[...document.querySelectorAll('.panel')].filter(p => p.querySelector('canvas').hidden)"
        ".map(p => p.dataset.key)"
    )
    assert empty == ["reference", "error"]
    for key, number, place in (("ArrowRight", "8", 2), ("Home", "3", 0), ("End", "8", 2)):
        shown.press(key)
        shown.settle()
        assert text(shown, "#slice-number") == number
        assert value(shown, "slice") == place
        assert text(shown, '.panel[data-key="ours"] .caption') == f"{number} dB"
    shown.press("ArrowRight")
    assert text(shown, "#slice-number") == "8"
    shown.press("ArrowLeft")
    shown.settle()
    assert text(shown, "#slice-number") == "5"
    shown.evaluate("document.getElementById('slice').focus()")
    shown.press("ArrowLeft")
    shown.settle()
    assert text(shown, "#slice-number") == "3"
    assert shown.evaluate("document.getElementById('slice-warning').hidden") is True


def test_window_and_level_by_keys_sliders_and_mouse(shown):
    go_to_first(shown)
    assert (value(shown, "level"), value(shown, "width")) == (0.5, 1.0)
    x = 4.5 / SIZE
    before = colour(shown, "reference", x)[0]
    shown.press("n")
    assert value(shown, "width") == pytest.approx(0.9)
    shown.press("w")
    shown.press("d")
    assert (value(shown, "level"), value(shown, "width")) == pytest.approx((0.55, 1.0))
    assert colour(shown, "reference", x)[0] == pytest.approx(before - 0.05 * 255, abs=2)
    assert text(shown, "#white") == "1.05 HU"
    shown.press("b")
    assert value(shown, "level") == pytest.approx(0.5)
    shown.evaluate("document.getElementById('level').focus()")
    shown.press("ArrowRight")
    assert value(shown, "level") > 0.5
    assert text(shown, "#level-number") == shown.evaluate(
        "document.getElementById('level').getAttribute('aria-valuetext')"
    )
    shown.press("r")
    left, top, width, height = box(shown, "ours")
    middle = (left + width / 2, top + height / 2)
    shown.drag(middle, (middle[0] + width / 4, middle[1] + height / 10))
    assert value(shown, "width") == pytest.approx(np.exp(0.5), rel=0.05)
    assert value(shown, "level") == pytest.approx(0.6, abs=0.02)
    shown.press("m")
    assert text(shown, "#gain-number") == "×5"
    assert text(shown, "#colour-end") == "0.2 HU"
    shown.press("r")
    assert (value(shown, "level"), value(shown, "width")) == (0.5, 1.0)
    assert text(shown, "#gain-number") == "×2"


def test_images_zoom_and_move_together(shown):
    go_to_first(shown)
    shown.press("+")
    shown.press("+")
    assert value(shown, "zoom") == pytest.approx(1.25**2)
    shown.press("ArrowRight", shift=True)
    # Of 1/1.5625 of the width the middle is seen; moved by a tenth of that to the right.
    middle = 0.5 + 0.1 / 1.25**2
    for key in ("reference", "classical"):
        level = min(4 * (1 if key == "reference" else 0.5) * middle, 1)
        assert colour(shown, key) == pytest.approx([255 * level] * 3, abs=4)
    assert text(shown, "#slice-number") == "3"
    for _ in range(40):
        shown.press("ArrowLeft", shift=True)
    assert colour(shown, "classical", 0.01) == pytest.approx([0] * 3, abs=4)
    left, top, width, height = box(shown, "ours")
    middle = (left + width / 2, top + height / 2)
    shown.drag(middle, (middle[0] - width / 2, middle[1]), shift=True)
    assert (value(shown, "level"), value(shown, "width")) == (0.5, 1.0)
    start = 0.5 / 1.25**2
    assert colour(shown, "classical", 0.01)[0] == pytest.approx(255 * min(2 * start, 1), abs=6)
    shown.press("r")
    assert value(shown, "zoom") == 1


def test_the_value_under_the_mouse_is_shown_and_moves_nothing(shown):
    go_to_first(shown)
    left, top, width, height = place = box(shown, "ours")
    shown.hover(left + 3.5 / SIZE * width, top + 4.5 / SIZE * height)
    assert text(shown, '.panel[data-key="ours"] .value') == "0.637"
    assert text(shown, '.panel[data-key="reference"] .value') == "0.387"
    assert text(shown, '.panel[data-key="error"] .value') == "0.25"
    assert text(shown, '.panel[data-key="measured"] .value') == ""
    assert box(shown, "ours") == place
    shown.hover(5, 5)
    assert text(shown, '.panel[data-key="ours"] .value') == ""


def test_two_fingers_zoom_and_one_moves_what_is_enlarged(browser, page):
    browser.open(page, 390)
    browser.send("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    left, top, width, height = box(browser, "ours")
    x, y = left + width / 2, top + height / 2
    browser.touch(*[[(x - apart, y), (x + apart, y)] for apart in range(10, 35, 5)])
    assert value(browser, "zoom") == pytest.approx(3)
    assert browser.evaluate("[view.x, view.y]") == pytest.approx([0.5, 0.5], abs=0.01)
    browser.touch([(x, y)], [(x - width / 10, y)], [(x - width / 5, y)])
    assert browser.evaluate("[view.x, view.y]") == pytest.approx([0.5 + 0.2 / 3, 0.5], abs=0.01)
    assert (value(browser, "level"), value(browser, "width")) == (0.5, 1.0)
    browser.send("Emulation.setTouchEmulationEnabled", enabled=False)


def test_flicker_shows_two_images_in_turn_at_one_place(shown):
    go_to_first(shown)
    everything = visible(shown)
    assert everything == ["classical", "ours", "reference", "measured", "error", "residual"]
    shown.press("f")
    assert visible(shown) == ["ours"]
    place, before = box(shown, "ours"), colour(shown, "ours", 4.5 / SIZE)
    shown.press("f")
    assert visible(shown) == ["classical"]
    assert box(shown, "classical") == place
    assert colour(shown, "classical", 4.5 / SIZE) == pytest.approx(
        [channel / 2 for channel in before], abs=2
    )
    shown.press("f")
    assert visible(shown) == ["ours"]
    # Numbers choose; flicker then goes between the last two.
    shown.press("3")
    assert visible(shown) == ["reference"]
    shown.press("f")
    assert visible(shown) == ["ours"]
    shown.press("p")
    assert shown.evaluate("document.getElementById('play').ariaPressed") == "true"
    shown.wait("document.querySelector('.panel.shown').dataset.key === 'ours'")
    shown.wait("document.querySelector('.panel.shown').dataset.key === 'reference'")
    shown.press("Escape")
    assert visible(shown) == everything
    assert shown.evaluate("document.getElementById('play').ariaPressed") == "false"


def test_everything_can_be_reached_by_tab_and_keys_can_be_turned_off(shown):
    shown.evaluate("document.getElementById('help').open = true")
    reached = []
    focused = "document.activeElement"
    while True:
        shown.press("Tab")
        if shown.evaluate(f"{focused} === document.body"):
            break
        reached.append(shown.evaluate(f"{focused}.id || {focused}.textContent"))
        assert shown.evaluate(f"getComputedStyle({focused}).outlineStyle") != "none"
    for control in ("slice", "grid", "flip", "play", "reset", "level", "width", "gain", "zoom"):
        assert control in reached
    assert "2 Ours" in reached
    assert "keys" in reached
    shown.evaluate("document.querySelector('.panel[data-key=\"ours\"] .name').focus()")
    shown.press("Enter")
    assert visible(shown) == ["ours"]
    shown.press("Enter")
    assert len(visible(shown)) == 6
    shown.evaluate("document.getElementById('keys').click()")
    shown.press("f")
    assert len(visible(shown)) == 6


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast(browser, page, dark):
    browser.open(page, 1280, dark=dark)
    poor = browser.evaluate(
        """(() => {
          const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
          const light = (colour) => {
            const [r, g, b] = channels(colour).map((c) => c / 255)
              .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = (node) => {
            for (; node; node = node.parentElement) {
              const colour = getComputedStyle(node).backgroundColor;
              if (channels(colour)[3] !== 0) return colour;
            }
            return "rgb(255, 255, 255)";
          };
          const poor = [];
          for (const node of document.querySelectorAll("body *")) {
            const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
            if (!own || !node.offsetParent) continue;
            const [a, b] = [light(getComputedStyle(node).color), light(ground(node))];
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5) poor.push([node.textContent.slice(0, 30), ratio]);
          }
          return poor;
        })()"""
    )
    assert poor == []


@pytest.mark.parametrize("width", [390, 800, 1280])
@pytest.mark.parametrize("alone", [False, True])
def test_nothing_is_wider_than_the_screen(browser, page, width, alone):
    browser.open(page, width)
    browser.evaluate("document.getElementById('help').open = true")
    if alone:
        browser.press("f")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    # Wide tables scroll in themselves; images and controls are whole.
    cut = browser.evaluate(
        "[...document.querySelectorAll('canvas, button, input, output, h1, h2')]"
        ".filter(e => e.offsetParent && e.getBoundingClientRect().right > innerWidth + 0.5)"
        ".map(e => e.outerHTML)"
    )
    assert cut == []
    if not alone:
        _, _, image_width, _ = box(browser, "ours")
        assert image_width >= 150


def test_every_image_has_a_name_for_those_who_do_not_see_it(shown):
    names = shown.evaluate(
        "[...document.querySelectorAll('.panel > canvas')].map(c => c.getAttribute('aria-label'))"
    )
    assert names[1] == "Ours, slice 5. 5 dB"
    assert all(names)
    unnamed = shown.evaluate(
        "[...document.querySelectorAll('input, button')]"
        ".filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels.length))"
        ".map(e => e.outerHTML)"
    )
    assert unnamed == []
    shown.press("n")
    shown.wait("document.getElementById('status').textContent.includes('width 0.9')")
