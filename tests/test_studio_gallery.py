"""Pictures that are read back, begun with or listed by the page: what somebody else wrote in them counts within bounds alone."""

import io
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import tiny
from gm.errors import UserError
from gm.options.sample import parse_sample, sample_settings
from gm.pictures import save_png
from gm.sampling.output import about

PICTURE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


@pytest.fixture
def studio(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tiny.ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    from studio.access import PageOptions
    from studio.models import Model
    from studio.visit import Studio

    (tmp_path / "runs").mkdir()
    models = {"Tiny": Model("Tiny", {"config": str(tiny.INFERENCE)}, ("checkpoints/tiny.safetensors",))}
    return Studio(PageOptions(), models, [], "0" * 12)


def written(path: Path, *words) -> Path:
    """A picture of this suite that was made with these flags."""
    options = parse_sample([str(word) for word in ("--height", 64, "--width", 96, "--device_target", "CPU", *words)])
    save_png(path, PICTURE, about(options, sample_settings(options, 32), options.prompt, options.seed))
    return path


def test_settings_of_our_picture(studio, tmp_path):
    from studio.sampling.picture_text import settings_of

    (tmp_path / "runs" / "a_lora.ckpt").write_bytes(b"")
    weight = f"checkpoints/tiny.safetensors,runs/a_lora.ckpt,{tmp_path.parent}/b_lora.ckpt"
    words = ("--weight", weight, "--lora_scale", "0.5,2", "--prompt", "a dog", "--seed", 7, "--sampler", "DPM++ 2M Karras")
    path = written(tmp_path / "a.png", *words, "--guidance_rescale", 0.5, "--vae", "/etc/passwd", "--hires_scale", 2)
    values, model, left = settings_of(studio, path, studio.models)
    assert model == "Tiny" and values["lora"] == [{"path": "runs/a_lora.ckpt", "strength": 0.5, "on": True}]
    assert (values["prompt"], values["seed"], values["width"], values["height"]) == ("a dog", 7, 96, 64)
    assert (values["sampler"], values["schedule"]) == ("DPMPP2MSampler", "Karras")
    assert (values["guidance_rescale"], values["hires_scale"], values["vae"], values["task"]) == (0.5, 2.0, None, "txt2img")
    assert left == ["vae: '/etc/passwd'", "the LoRA 'b_lora.ckpt'"]


def test_settings_of_an_a1111_picture(studio, tmp_path):
    from studio.sampling.picture_text import settings_of

    info = PngInfo()
    info.add_text(
        "parameters", "a (red) dog\nNegative prompt: cats\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 3, Size: 64x96"
    )
    Image.fromarray(PICTURE).save(tmp_path / "a.png", pnginfo=info)
    values, model, left = settings_of(studio, tmp_path / "a.png", studio.models)
    assert model is None and not left and values["prompt_style"] == "a1111" and values["sampler"] == "EulerAncestralSampler"
    assert (values["prompt"], values["negative_prompt"], values["seed"]) == ("a (red) dog", "cats", 3)


def test_pictures_that_say_nothing_or_nonsense(studio, tmp_path):
    from studio.sampling.picture_text import settings_of

    Image.fromarray(PICTURE).save(tmp_path / "plain.png")
    with pytest.raises(UserError, match="holiday.png does not say how it was made"):
        settings_of(studio, tmp_path / "plain.png", studio.models, "holiday.png")
    text = {"seed": "x" * 100, "sampler": "Euler", "guider": "VanillaCFG", "size": "96x64", "prompt": "a dog"}
    save_png(tmp_path / "bad.png", PICTURE, text)
    with pytest.raises(UserError, match="holiday.png says what this version does not take"):
        settings_of(studio, tmp_path / "bad.png", studio.models, "holiday.png")
    (tmp_path / "no.png").write_bytes(b"not a picture")
    with pytest.raises(UserError):
        settings_of(studio, tmp_path / "no.png", studio.models)


def test_uploads_are_pictures_under_names_of_ours(studio, tmp_path):
    from studio.sampling.given import keep

    content = io.BytesIO()
    Image.fromarray(PICTURE).save(content, "WEBP", lossless=True)
    path = keep(studio, content.getvalue(), "../../../etc/x.png")
    assert path.parent == studio.folder / "given" and np.array_equal(np.asarray(Image.open(path)), PICTURE)
    assert keep(studio, content.getvalue(), "again.png") == path
    for bad in (b"", b"<svg/>", content.getvalue()[:60]):
        with pytest.raises(UserError, match="holiday.png"):
            keep(studio, bad, "holiday.png")
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_what_is_painted_becomes_the_mask(studio, tmp_path, monkeypatch):
    from streamlit.testing.v1 import AppTest

    from studio.sampling.given import keep

    content = io.BytesIO()
    Image.fromarray(PICTURE).save(content, "PNG")
    mask, seen = np.zeros((64, 96), np.uint8), []
    mask[:, :48] = 255
    module = ModuleType("studio.brush")
    module.brush = lambda picture, before, key, label: seen.append((picture.shape, before)) or mask
    monkeypatch.setitem(sys.modules, "studio.brush", module)

    def script():
        import streamlit as st

        from studio.sampling.given import show_start
        from studio.sampling.settings import Settings

        found = st.session_state.setdefault("kept", Settings(*st.session_state["begun"]))
        show_start(st.session_state["studio"], found)

    from studio.sampling.settings import begin_with

    page = AppTest.from_function(script)
    values = begin_with(parse_sample(["--device_target", "CPU"]))
    values |= {"task": "inpaint", "img": str(keep(studio, content.getvalue(), "a.png"))}
    page.session_state["begun"] = (tmp_path / "s.json", "Tiny", values, [])
    page.session_state["studio"] = studio
    page.run()
    assert not page.exception and not page.error
    kept = page.session_state["kept"].values["mask"]
    assert np.array_equal(np.asarray(Image.open(kept)), mask) and seen == [((64, 96, 3), None)]
    page.run()
    assert np.array_equal(seen[1][1], mask)


def test_the_gallery_is_a_list_that_lasts(studio, tmp_path):
    from studio.files import picture, texts_of
    from studio.sampling.gallery import LARGEST_THUMBNAIL, Gallery, described, speaking_name

    gallery = Gallery(studio.folder / "gallery.json")
    assert gallery.paths() == []
    paths = [written(tmp_path / f"{number}.png", "--seed", number, "--prompt", "A photo of 一只 dog!") for number in range(3)]
    for path in paths:
        gallery.add(path)
    assert gallery.paths() == paths[::-1]
    gallery.remove(paths[2])
    paths[1].unlink()
    assert gallery.paths() == paths[:1] and paths[2].is_file()
    for damage in ("", "{}", "[1, null]", "\0"):
        gallery.file.write_text(damage)
        assert gallery.paths() == []
    texts = texts_of(paths[0])
    assert speaking_name(texts) == "a_photo_of_一只_dog_seed0.png"
    assert described(texts) == "seed 0 · 96 × 64 · 40 steps · Euler · guidance 5 · no LoRA"
    texts = {**texts, "weight": "base.ckpt,runs/puppy/SDXL_base_1.0_400_lora.ckpt", "lora_scale": "0.5", "seed": "../7"}
    assert speaking_name(texts) == "a_photo_of_一只_dog_seed7_step400.png"
    assert described(texts).endswith("step 400 · puppy × 0.5")
    assert (
        speaking_name({}) == "picture.png"
        and speaking_name({"prompt": "x" * 99, "weight": ",,"}) == "x" * 27 + "_" + "x" * 20 + ".png"
    )
    assert (
        picture(paths[0], LARGEST_THUMBNAIL) == paths[0].read_bytes()
        and picture(tmp_path / "gone.png", LARGEST_THUMBNAIL) is None
    )
    save_png(tmp_path / "large.png", np.zeros((600, 1200, 3), np.uint8), {})
    assert Image.open(io.BytesIO(picture(tmp_path / "large.png", LARGEST_THUMBNAIL))).size == (512, 256)


def test_settings_are_kept_and_damage_is_not(studio, tmp_path):
    from studio.sampling.settings import Settings, begin_with, stored_model

    start = begin_with(parse_sample(["--device_target", "CPU"]))
    settings = Settings(tmp_path / "s.json", "Tiny", start, [])
    settings.values |= {"prompt": "a dog", "seed": 3, "lora": [{"path": "runs/a_lora.ckpt", "strength": 0.5, "on": False}]}
    settings.remember("a dog")
    settings.save()
    again = Settings(tmp_path / "s.json", "Tiny", start, [])
    again.load()
    assert again.values == settings.values and again.prompts == ["a dog"] and stored_model(tmp_path / "s.json") == "Tiny"
    for damage in ("", "[]", '{"prompts": [], "values": 3}', "\0"):
        (tmp_path / "s.json").write_text(damage)
        bad = Settings(tmp_path / "s.json", "Tiny", start, [])
        bad.load()
        assert bad.values == start and stored_model(tmp_path / "s.json") is None
    odd = {"seed": "x", "prompt": 3, "lora": [{"path": 3}], "unknown": 1, "steps": []}
    (tmp_path / "s.json").write_text(json.dumps({"prompts": [], "model": "Tiny", "values": odd}))
    bad.load()
    assert bad.values == start
