"""The studio in a real browser, from five photos to a picture with the LoRA: reloads, a stop, a killed training, two visitors."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import browser
import studio_steps as person
import tiny
from tools import draw_world

pytestmark = pytest.mark.xdist_group("studio")
UPDATES, EVERY = 150, 50


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    draw_world.main(["--subject", "training", "--output", str(folder)])
    return sorted(folder.glob("*.png"))


@pytest.fixture
def site(tmp_path) -> Path:
    """The folder that the page is started in."""
    if not browser.chromium():
        if os.environ.get("CI"):
            pytest.fail("Chromium must be installed in CI: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    folder = tmp_path / "site"
    folder.mkdir()
    for name in ("configs", "checkpoints"):
        (folder / name).symlink_to(tiny.ROOT / name)
    return folder


def test_from_photos_to_a_lora(site, photos, tmp_path):
    log = tmp_path / "log"
    with browser.served(site, log) as port, browser.opened(port, tmp_path / "profile") as page:
        # photos
        person.open_part(page, "Photos")
        person.upload(page, photos)
        person.mask(page, photos[0].name)
        person.all_photos(page)
        (visit,) = (site / "runs" / "visits").iterdir()
        painted = np.asarray(Image.open(visit / "draft" / "photos" / f"{photos[0].stem}-masklabel.png"))
        assert painted.shape[:2] == Image.open(photos[0]).size[::-1] and 0.01 < (painted > 0).mean() < 0.9

        # a second visitor has photos of their own
        other = page.context.new_page()
        other.goto(page.url.split("?")[0] + "?part=photos")
        other.get_by_text("Add photos").first.wait_for()
        assert not other.get_by_role("button", name=photos[0].name, exact=True).count()

        # recipe and run
        person.open_part(page, "Recipe")
        person.start_training(page, UPDATES, EVERY)
        (job,) = [path.parent for path in (site / "runs").glob("*/job.json")]
        person.trains(page)
        page.reload()
        person.trains(page)
        person.stop(page)
        stopped = len((job / "metrics.jsonl").read_text().splitlines())
        assert 0 < stopped < UPDATES and (job / f"SDXL_base_1.0_{stopped}_lora.ckpt").exists()
        assert "masks" in (job / "recipe.yaml").read_text() and len(list((job / "photos").glob("*-masklabel.png"))) == 1

        # the other visitor sees the training as well
        person.open_part(other, "Run")
        other.get_by_role("button", name="Resume", exact=True).wait_for()
        other.close()

        # killed, resumed, done
        person.resume(page)
        page.get_by_role("button", name="Stop and save", exact=True).wait_for()
        os.kill(person.state_of(job)["process"], signal.SIGKILL)
        page.get_by_text("the process was killed from outside").wait_for()
        person.resume(page)
        person.ended(page, UPDATES)
        person.curve(page)
        steps = [int(re.search(r'"step": (\d+)', line)[1]) for line in (job / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, UPDATES + 1))
        assert (job / "progress" / f"step_{UPDATES:06d}_00.png").exists() and (job / "diagnosis.txt").exists()

        # results
        page.get_by_role("button", name="See the results", exact=True).click()
        person.compare(page)
        page.reload()
        page.get_by_text("Side by side", exact=True).wait_for()
        page.wait_for_function("""() => document.querySelectorAll("[data-testid=stImage] img").length >= 2""")
        assert person.take_along(page) == (job / f"SDXL_base_1.0_{UPDATES}_lora.ckpt").read_bytes()

        # pictures
        page.get_by_role("button", name="Make pictures with it", exact=True).click()
        page.get_by_text("6 tokens", exact=True).wait_for()  # of the LoRA's own prompt
        assert page.get_by_label("Prompt", exact=True).input_value() == person.PROMPT
        person.sample(page)
        made = sorted((site / "outputs" / "demo").glob("0*.png"))
        assert len(made) == 4 and Image.open(made[0]).text["weight"].endswith(f"{job.name}/SDXL_base_1.0_{UPDATES}_lora.ckpt")

        # a job is deleted when asked twice
        person.open_part(page, "Run")
        page.get_by_role("button", name="Delete", exact=True).click()
        page.get_by_role("button", name="Delete for good", exact=True).click()
        page.get_by_text("No training yet").wait_for()
        assert not job.exists()
    said = log.read_text()
    assert not re.search("Traceback|[Ww]arning|WARNING|[Dd]eprecat", said), said
