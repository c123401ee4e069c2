"""The brush of the page: what it takes from a browser, and painting in a real one."""

import base64
import io
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace
from urllib.error import URLError
from urllib.request import urlopen

import mindspore  # noqa: F401  brings its own protobuf code, which has to come before Streamlit's
import numpy as np
import pytest
from PIL import Image

import browser
import tiny
from gm.errors import UserError

DEMO = tiny.ROOT / "demo"
SIZE = (384, 768)  # (w, h) of what is painted on, of a picture of 500 x 1000


@pytest.fixture
def brush(monkeypatch):
    """The module, with a browser that says `answer`, and what it was given."""
    monkeypatch.syspath_prepend(DEMO)
    from studio import brush

    state, seen = {}, []
    monkeypatch.setattr(brush, "st", SimpleNamespace(session_state=state))
    found = SimpleNamespace(module=brush, state=state, seen=seen, answer=lambda given: None)

    def in_the_browser(given, key):
        seen.append(given)
        state[key] = True
        return found.answer(given)

    monkeypatch.setattr(brush, "_in_the_browser", in_the_browser)
    return found


PICTURE = np.full((1000, 500, 3), 90, np.uint8)


def paint(brush, mask=None, picture=PICTURE):
    return brush.module.brush(picture, mask, "key", "Mask")


def sent(pixels: np.ndarray, kind: str = "PNG") -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(content.getvalue()).decode()


def answering(pixels):
    """A browser that sends these for whatever it is painting on."""
    return lambda given: {"number": given["number"], "mask": sent(pixels)}


def painted(left: int, right: int) -> np.ndarray:
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[:, left:right] = 255
    return pixels


def test_the_picture_is_scaled_and_the_mask_has_its_size(brush):
    assert paint(brush) is None
    given = brush.seen[0]
    picture = Image.open(io.BytesIO(base64.b64decode(given["picture"].split(",")[1])))
    assert picture.size == (given["width"], given["height"]) == SIZE and picture.format == "JPEG" and given["start"] == ""
    brush.answer = answering(painted(0, 96))
    mask = paint(brush)
    assert mask.shape == (1000, 500) and mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 255}
    assert (mask[:, :123] == 255).all() and (mask[:, 127:] == 0).all()


def test_painting_goes_on_when_the_page_runs_again(brush):
    start = np.zeros((1000, 500), np.uint8)
    start[:500] = 255
    paint(brush, start)
    first = brush.seen[-1]
    begun = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["start"].split(",")[1]))))
    assert begun.shape == SIZE[::-1] and begun[:380].all() and not begun[390:].any()
    brush.answer = answering(painted(0, 96))
    mask = paint(brush, start)
    for again in (start, mask):  # as before, or what it returned
        assert np.array_equal(paint(brush, again), mask) and brush.seen[-1] == first
    # another mask or picture begins anew; what the browser says of the old one no longer counts
    brush.answer = lambda given: {"number": first["number"], "mask": sent(painted(0, 96))}
    assert paint(brush, 255 - start) is None and brush.seen[-1]["number"] != first["number"]
    assert paint(brush, 255 - start, 255 - PICTURE) is None


def test_what_was_painted_is_there_again_after_it_was_not_shown(brush):
    brush.answer = answering(painted(0, 96))
    mask = paint(brush)
    del brush.state["key"]  # Streamlit drops the state of what is not shown
    brush.answer = lambda given: None
    assert np.array_equal(paint(brush), mask)
    begun = np.asarray(Image.open(io.BytesIO(base64.b64decode(brush.seen[-1]["start"].split(",")[1]))))
    assert begun[:, :95].all() and not begun[:, 97:].any() and brush.seen[-1]["number"] != brush.seen[0]["number"]
    brush.module.forget("key")
    assert paint(brush) is None and brush.seen[-1]["start"] == ""


def test_few_paintings_are_kept(brush):
    for number in range(10):
        brush.module.brush(PICTURE, None, f"key{number}", "Mask")
    assert len(brush.state["brush_paintings"]) == brush.module.KEPT


@pytest.mark.parametrize(
    "mask",
    [
        sent(painted(0, 9)[:-1]),
        sent(painted(0, 9), "JPEG"),
        sent(painted(0, 9), "JPEG").replace("jpeg", "png"),
        sent(painted(0, 9))[:-40],
        "data:image/png;base64,####",
        "data:image/png;base64,",
        "https://127.0.0.1/a.png",
        "data:image/png;base64," + "A" * 4_000_001,
    ],
)
def test_what_is_no_mask_is_refused(brush, mask):
    brush.answer = lambda given: {"number": given["number"], "mask": mask}
    with pytest.raises(UserError, match="could not be read: paint it again"):
        paint(brush)


@pytest.mark.parametrize("value", ["mask", 3, [], {}, {"number": 1}, {"mask": sent(painted(0, 9))}])
def test_what_says_nothing_of_the_painting_is_left(brush, value):
    brush.answer = lambda given: {"number": given["number"], **value} if value == {} else value
    assert paint(brush) is None


# -- a real browser ---------------------------------------------------------------------------------------------

PAGE = f"""
import sys
sys.path[:0] = [{str(DEMO)!r}, {str(tiny.ROOT)!r}]
import numpy as np
import streamlit as st
from studio.brush import brush
start = np.zeros((300, 400), np.uint8)
start[:30] = 255
shown = not st.toggle("hide", key="hide")
mask = brush(np.full((300, 400, 3), 90, np.uint8), start, "mask", "Mask of it") if shown else None
st.write("nothing yet" if mask is None else f"white: {{int((mask > 0).sum())}} of {{mask.shape}}")
"""


@pytest.mark.slow
def test_in_a_browser(tmp_path):
    """By mouse and by keyboard; undo, invert, clear; kept while it is not shown."""
    if not browser.chromium():
        if os.environ.get("CI"):
            pytest.fail("Chromium must be installed in CI: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    (tmp_path / "page.py").write_text(PAGE)
    port = browser.free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(tmp_path / "page.py"), "--server.port", str(port)]
    flags = ["--server.headless", "true", "--server.fileWatcherType", "none", "--browser.gatherUsageStats", "false"]
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(command + flags, cwd=tmp_path, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).close()
                break
            except (URLError, OSError):
                time.sleep(0.1)
        with browser.opened(port, tmp_path / "profile", 390, 844) as page:
            _paint(page)
    finally:
        server.terminate()
        server.wait(30)


def _paint(page) -> None:
    canvas = page.locator("#mask")
    canvas.wait_for()
    page.get_by_text("nothing yet").wait_for()

    def white(changed: int) -> int:
        """The number that the page shows once it is another one than `changed`."""
        page.wait_for_function("old => !document.body.innerText.match(`white: ${old} of|nothing yet`)", arg=changed)
        return int(re.search(r"white: (\d+) of \(300, 400\)", page.inner_text("body"))[1])

    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert canvas.get_attribute("aria-label") == "Mask of it"
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=5)
    page.mouse.up()
    dragged = white(-1)
    assert 12_000 + 1500 < dragged < 12_000 + 9000  # what it began with, and the stroke

    canvas.focus()
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    page.keyboard.down(" ")
    page.keyboard.press("ArrowLeft")
    page.keyboard.up(" ")
    keyed = white(dragged)
    assert keyed > dragged + 500
    page.keyboard.press("Control+z")
    assert white(keyed) == dragged
    page.get_by_role("button", name="Invert").click()
    assert abs(white(dragged) - (120_000 - dragged)) < 1000
    page.get_by_role("button", name="Undo").click()
    assert white(120_000 - dragged) == dragged

    page.get_by_text("hide").click()
    canvas.wait_for(state="detached")
    page.get_by_text("hide").click()
    canvas.wait_for()
    page.get_by_role("button", name="Erase").click()
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=5)
    page.mouse.up()
    assert abs(white(dragged) - 12_000) < 300  # the stroke is gone again
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("white: 0 of").wait_for()
