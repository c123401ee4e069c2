"""The part Pictures of the page in a real browser."""

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import browser
import tiny
from gm.checkpoint.weights import open_base
from lora_samples import ATTENTION, make_lora

pytestmark = pytest.mark.xdist_group("page")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_weights) -> Path:
    """Where the page is started: with a LoRA of all attention among the runs."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "runs").mkdir()
    make_lora(folder / "runs" / "big_lora.ckpt", open_base(tiny_weights), lambda module: 4 * module.endswith(ATTENTION))
    return folder


def listening(port: int) -> list[str]:
    """The addresses that are listened on at this port, as the kernel writes them."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.split(":")[1], 16) == port:
                found.append(address.split(":")[0])
    return found


def downloaded(page) -> Image.Image:
    """The first picture, as its button gives it."""
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile("PNG, ")).first.click()
    return Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))


def flags(weight) -> list[str]:
    """Of the tiny model."""
    words = ("--config", tiny.INFERENCE, "--weight", weight, "--device_target", "CPU")
    return [str(word) for word in (*words, "--height", 128, "--width", 128, "--sample_step", 3)]


def test_in_a_browser(folder, tiny_weights, tmp_path):
    """Sampling, live progress, a LoRA on and off, a reload in the middle, stopping, and two people at once, on one loaded model."""
    if not browser.chromium():
        if os.environ.get("CI"):
            pytest.fail("Chromium must be installed in CI: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    log, outputs = tmp_path / "log", tmp_path / "out"
    words = flags(f"{tiny_weights},runs/big_lora.ckpt")
    with browser.served(folder, log, *words, "--save_path", outputs) as port:
        with browser.opened(port, tmp_path / "profile") as page:
            assert listening(port) == ["0100007F"]  # 127.0.0.1 alone
            switch = page.get_by_text("big_lora.ckpt · runs", exact=True)
            switch.click()
            page.get_by_text("switched off").wait_for()
            page.get_by_role("button", name="Sample", exact=True).click()
            page.get_by_text("compiling the sampling graph").wait_for()
            page.reload()
            page.get_by_role("button", name="Stop", exact=True).wait_for()
            browser.finished(page)
            plain = downloaded(page)
            assert plain.size == (128, 128) and plain.text["weight"] == str(tiny_weights) and plain.text["seed"] == "42"
            assert plain.text == Image.open(outputs / "00000.png").text
            page.screenshot(path=tmp_path / "off.png")

            switch.click()
            page.get_by_text("switched off").wait_for(state="detached")
            browser.sample(page)
            page.get_by_text("big_lora.ckpt · runs × 1").wait_for()
            tuned = downloaded(page)
            assert tuned.text["weight"] == f"{tiny_weights},runs/big_lora.ckpt" and tuned.text["lora_scale"] == "1"
            assert np.abs(np.asarray(tuned).astype(int) - np.asarray(plain)).mean() > 2
            page.screenshot(path=tmp_path / "on.png")

            # somebody else comes while a long sampling runs here, which is then stopped
            steps = page.get_by_role("spinbutton", name="Sampling steps", exact=True)
            steps.fill("900")
            steps.press("Enter")
            page.get_by_role("button", name="Sample", exact=True).click()
            page.get_by_text(re.compile(r"picture 1 of 1, step \d+ of 900 · about")).wait_for()
            other = page.context.new_page()
            other.goto(f"http://127.0.0.1:{port}/")
            other.get_by_text("big_lora.ckpt · runs", exact=True).click()
            other.get_by_text("switched off").wait_for()
            other.get_by_role("button", name="Sample", exact=True).click()
            other.get_by_text("other pictures are being made first").wait_for()
            page.get_by_role("button", name="Stop", exact=True).click()
            browser.finished(page)
            page.get_by_text("stopped after 0 of 1 pictures").wait_for()
            browser.finished(other)
            again = downloaded(other)
            assert np.array_equal(np.asarray(again), np.asarray(plain)) and again.text == plain.text  # without the LoRA again

    assert sorted(path.name for path in outputs.iterdir()) == [
        *(f"{number:05d}.png" for number in range(3)),
        *(f"sheet_{number:05d}.png" for number in range(3)),
    ]
    said = log.read_text()
    graphs = ("text encoders", "sampling graph", "decoder")
    for once in ("starting MindSpore", *(f"compiling the {graph}" for graph in graphs)):
        assert len(re.findall(f"{once}: ", said)) == 1, said
    assert not re.search("Traceback|[Ww]arning|WARNING|[Dd]eprecat", said), said
    assert not {"rank_0", "kernel_meta"} & {path.name for path in folder.iterdir()}


def test_a_narrow_screen_has_all_within_it(folder, tiny_weights, tmp_path):
    """At 390 pixels nothing is wider than the screen, and the button and its progress are in sight without scrolling far."""
    if not browser.chromium():
        pytest.skip("needs Chromium: apt-get install chromium")
    words = flags(f"{tiny_weights},runs/big_lora.ckpt")
    with browser.served(folder, tmp_path / "log", *words) as port:
        with browser.opened(port, tmp_path / "profile", 390, 844) as page:
            page.get_by_text("big_lora.ckpt · runs", exact=True).wait_for()
            page.get_by_text("All settings", exact=True).click()
            for name in ("Size and sampler", "Guidance in detail", "How prompts are read", "Grid of pictures"):
                page.get_by_text(name, exact=True).click()
            page.get_by_role("spinbutton", name="Width", exact=True).wait_for()
            assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390
            wide = """[...document.querySelectorAll('[data-testid=stMain] *')].filter((one) =>
                one.getBoundingClientRect().right > 391 && one.getBoundingClientRect().width > 1).map((one) => one.outerHTML.slice(0, 99))"""
            assert page.evaluate(wide) == []
            assert page.get_by_role("button", name="Sample", exact=True).bounding_box()["y"] < 600
            page.screenshot(path=tmp_path / "narrow.png", full_page=True)
