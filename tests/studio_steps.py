"""The studio as a person uses it, from photos to pictures: each step ends when the page has answered.

`page` is Playwright's (tests/browser.py). The steps are shared by tests/test_studio_browser.py and bench/studio.py.
"""

import io
import json
import re
from pathlib import Path
from typing import Sequence

from PIL import Image

import browser

PROMPT = "A photo of a sks dog"


def open_part(page, name: str) -> None:
    """Choose a part of the page."""
    page.get_by_test_id("stButtonGroup").first.get_by_text(name, exact=True).click()
    settled(page)


def settled(page) -> None:
    """Wait until the page's script does not run."""
    page.wait_for_timeout(200)
    page.wait_for_function("""() => document.querySelector("[data-testid=stApp]")?.dataset.testScriptState !== "running" """)


def upload(page, photos: Sequence[Path]) -> None:
    """Photos, which are then shown as training sees them."""
    page.locator("input[type=file]").first.set_input_files([str(path) for path in photos])
    page.get_by_text(re.compile(rf"{len(photos)} of {len(photos)} photos are trained")).wait_for()
    page.get_by_role("button", name=photos[-1].name, exact=True).wait_for()


def mask(page, name: str) -> None:
    """Paint over the middle of a photo, by the mouse and by the keyboard."""
    page.get_by_role("button", name=name, exact=True).click()
    canvas = page.locator("canvas#mask")
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(500)  # until it has its size
    box = canvas.bounding_box()
    left, top = box["x"], box["y"]
    page.mouse.move(left + 0.3 * box["width"], top + 0.4 * box["height"])
    page.mouse.down()
    for place in range(1, 9):
        page.mouse.move(left + (0.3 + 0.05 * place) * box["width"], top + (0.4 + 0.03 * (place % 3)) * box["height"], steps=3)
    page.mouse.up()
    page.get_by_role("button", name="Remove the mask").wait_for()
    canvas.focus()
    for key in ("ArrowDown", "ArrowDown", "Space"):
        canvas.press(key)
    settled(page)


def all_photos(page) -> None:
    """Back from the editor."""
    page.get_by_role("button", name="All photos", exact=True).click()
    page.get_by_text("masked", exact=False).first.wait_for()


def fill(page, label: str, text: object) -> None:
    """A field of the page, as after Tab."""
    field = page.get_by_label(label, exact=True).first
    field.fill(str(text))
    field.press("Tab")
    settled(page)


def start_training(page, updates: int, every: int) -> None:
    """A recipe of so many updates with pictures every so many; begin."""
    fill(page, "Prompt of the photos", PROMPT)
    fill(page, "Updates", updates)
    page.get_by_test_id("stButtonGroup").get_by_text("Pictures on the way", exact=True).click()
    settled(page)
    fill(page, "Updates between pictures", every)
    page.get_by_role("button", name="Start training", exact=True).click()
    page.get_by_role("button", name=re.compile("^Stop")).first.wait_for()


def trains(page) -> None:
    """Wait for the first updates and their curves."""
    page.get_by_role("button", name="Stop and save", exact=True).wait_for()
    curve(page)


def curve(page) -> None:
    """Wait for a curve that is drawn."""
    page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg").first.wait_for()


def stop(page) -> None:
    """Stop and save."""
    page.get_by_role("button", name="Stop and save", exact=True).click()
    page.get_by_role("button", name="Resume", exact=True).wait_for()


def resume(page) -> None:
    """Go on, until the page shows that it does."""
    page.get_by_role("button", name="Resume", exact=True).click()
    page.get_by_role("button", name="Resume", exact=True).wait_for(state="detached")
    page.get_by_role("button", name=re.compile("^Stop")).first.wait_for()


def ended(page, updates: int) -> None:
    """Wait until the training is done."""
    page.get_by_text(f"done · step {updates} of {updates}", exact=True).wait_for()
    page.get_by_role("button", name="See the results", exact=True).wait_for()
    page.get_by_role("button", name="Continue for more steps", exact=True).wait_for()
    assert not page.get_by_role("button", name="Resume", exact=True).count()


def compare(page, seed: int = 1) -> None:
    """The base model and the LoRA at one seed."""
    page.get_by_test_id("stButtonGroup").get_by_text("Compare", exact=True).click()
    settled(page)
    page.get_by_role("button", name="Make the pictures", exact=True).click()
    page.get_by_text("Side by side", exact=True).wait_for()
    page.wait_for_function("""() => document.querySelectorAll("[data-testid=stImage] img").length >= 2""")
    browser.finished(page)


def take_along(page) -> bytes:
    """The LoRA file of the run as its button gives it."""
    page.get_by_test_id("stButtonGroup").get_by_text("Take along", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile(r"^Download .*\.ckpt")).click()
    return Path(download.value.path()).read_bytes()


def sample(page) -> None:
    """Make pictures, and wait for them."""
    page.get_by_role("button", name="Sample", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    browser.finished(page)


def state_of(job: Path) -> dict:
    """What the runner has written down."""
    return json.loads((job / "state.json").read_text(encoding="utf-8"))


def picture_of(page) -> Image.Image:
    """The page as it looks, in few colours."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return picture.quantize(128)
