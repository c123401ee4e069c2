"""The studio's answers in milliseconds while a training uses both cores, and its pictures for docs/studio.md.

    python bench/studio.py --output docs/studio     # about 5 minutes; needs Chromium

Five drawn photos are uploaded, one is masked, the small model is trained; clicks are timed from the press to the first thing
that the answer shows, in headless Chromium on the same machine.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from playwright.sync_api import sync_playwright

import browser
import studio_steps as person
from tools import draw_world

PARTS = {  # what a part shows first
    "Photos": "Add photos",
    "Recipe": "Model to train",
    "Results": "Run",
    "Pictures": "Negative prompt",
    "Run": "Seconds per step",
}
WINDOWS = {  # other ways to look at the page
    "phone": {"width": 390, "height": 844},
    "dark": {"color_scheme": "dark"},
    "chinese": {"locale": "zh-CN"},
}
UPDATES, EVERY = 600, 30  # long enough to look around
ROUNDS = 4  # of clicks


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the studio and take its pictures.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "studio")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        site.mkdir()
        for name in ("configs", "checkpoints"):
            (site / name).symlink_to(ROOT / name)
        draw_world.main(["--subject", "training", "--output", f"{folder}/photos"])
        with browser.served(site, Path(folder) / "log") as port, sync_playwright() as playwright:
            walk(playwright, port, Path(folder), output)


def walk(playwright, port: int, folder: Path, output: Path) -> None:
    """From photos to pictures, with a photograph of each state."""

    def shot(page, name: str) -> None:
        page.wait_for_timeout(1500)
        person.picture_of(page).save(output / f"{name}.png", optimize=True)

    photos = sorted((folder / "photos").glob("*.png"))
    for number in (1, 2):
        print(f"first paint, visitor {number}: {first_paint(playwright, port, folder / f'new{number}')}", flush=True)
    with browser.window(playwright, f"http://127.0.0.1:{port}/", folder / "profile", height=1000) as page:
        person.open_part(page, "Photos")
        person.upload(page, photos)
        shot(page, "photos")
        person.mask(page, photos[0].name)
        shot(page, "mask")
        person.all_photos(page)
        person.open_part(page, "Recipe")
        shot(page, "recipe")
        person.start_training(page, UPDATES, EVERY)
        person.trains(page)
        page.wait_for_function("""() => document.querySelectorAll("[data-testid=stImage] img").length >= 3""")
        address = page.url.partition("/?")[2]
        print(f"first paint while it trains: {first_paint(playwright, port, folder / 'new3')}", flush=True)
        time_clicks(page)
        shot(page, "run")
        for name, settings in WINDOWS.items():
            with browser.window(playwright, f"http://127.0.0.1:{port}/?{address}", folder / name, **settings) as other:
                person.curve(other)
                assert other.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
                shot(other, name)
        person.stop(page)
        shot(page, "stopped")
        page.get_by_role("button", name="See the results", exact=True).click()
        page.get_by_text("Checkpoints", exact=True).wait_for()
        shot(page, "checkpoints")
        person.compare(page)
        page.get_by_text("Make the pictures", exact=True).evaluate("element => element.scrollIntoView()")
        shot(page, "compare")
        person.take_along(page)
        shot(page, "take_along")
        page.get_by_role("button", name="Make pictures with it", exact=True).click()
        person.sample(page)
        shot(page, "pictures")


def first_paint(playwright, port: int, profile: Path) -> str:
    """Seconds from asking for the page to its first paint, and to its fields: by a browser with an empty cache, and again."""
    with browser.window(playwright, "about:blank", profile) as page:
        return "; again ".join(_paint(page, port) for _ in range(2))


def _paint(page, port: int) -> str:
    start = time.perf_counter()
    page.goto(f"http://127.0.0.1:{port}/", wait_until="commit")
    page.get_by_text("Photos", exact=True).first.wait_for()
    painted = time.perf_counter() - start
    page.get_by_text("Negative prompt").first.wait_for()
    return f"{painted:.2f} s, fields after {time.perf_counter() - start:.2f} s"


def time_clicks(page) -> None:
    """Press each part's name several times, and print what that took."""
    times: dict[str, list[float]] = {part: [] for part in PARTS}
    for _ in range(ROUNDS):
        for part, shows in PARTS.items():
            start = time.perf_counter()
            page.get_by_test_id("stButtonGroup").first.get_by_text(part, exact=True).click()
            page.get_by_text(shows, exact=True).first.wait_for()
            times[part].append(time.perf_counter() - start)
            person.settled(page)
    found = [1000 * one for of_part in times.values() for one in of_part]
    print(f"{len(found)} clicks while it trains: median {statistics.median(found):.0f} ms, longest {max(found):.0f} ms")
    for part, of_part in times.items():
        print(f"  {part}: " + ", ".join(f"{1000 * one:.0f}" for one in of_part) + " ms", flush=True)


if __name__ == "__main__":
    main()
