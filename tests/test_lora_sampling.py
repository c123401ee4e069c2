"""LoRA while pictures are made: schedules over the steps, LoRA that come and go on loaded networks, and prompts with LoRA of their
own. Nothing is compiled for any of it."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import small as small_model
import tiny
from gm import runtime
from gm.checkpoint.lora_files import open_lora, save_lora
from gm.checkpoint.lora_rules import UNET, lora_names
from gm.checkpoint.lora_stack import LoraStack, merged
from gm.checkpoint.lora_strength import Strength, Strengths
from gm.checkpoint.weights import open_base
from gm.config.types import SampleSettings
from gm.encoding.source import Source
from gm.encoding.text import TextEmbedding
from gm.models import sdxl
from gm.options.lora import blocks_of, schedule_of
from gm.sampling import full_precision
from gm.sampling.lora_schedule import LoraSchedule
from gm.sampling.pipeline import Pipeline
from gm.sampling.start import Start
from small import SMALL

sys.path.insert(0, str(tiny.ROOT / "demo"))
import sampling_without_streamlit  # noqa: E402

pytestmark = pytest.mark.xdist_group("small")
SIZE = 64
HALF = "0:0,0.5:1"


@pytest.fixture(scope="module")
def loras(small, tmp_path_factory):
    """Two of the small model, in the attention of all networks."""
    folder, base = tmp_path_factory.mktemp("lora"), open_base(small.weights)
    for seed, name in enumerate(("first", "second")):
        rng, matrices = np.random.default_rng(seed), {}
        for module in lora_names(small_model.model()).modules:
            if module.endswith(("to_q", "to_v", "q_proj")):
                rows, columns = base.shapes[f"{module}.weight"]
                matrices[f"{module}.lora_A.weight"] = rng.standard_normal((2, columns), np.float32)
                matrices[f"{module}.lora_B.weight"] = rng.standard_normal((rows, 2), np.float32)
        save_lora(folder / f"{name}.ckpt", matrices, {"lora_alpha": "1.0"})
    return folder


@pytest.fixture(scope="module")
def source(small, loras):
    """Both LoRA with the schedules that are given."""

    def made(*schedules: str) -> Source:
        strengths = Strengths((0.7, 0.4), schedules=tuple(map(schedule_of, schedules)))
        machine = runtime.start(runtime.CPU, 0)
        weight = ",".join(str(path) for path in (small.weights, loras / "first.ckpt", loras / "second.ckpt"))
        return Source(small_model.model(), weight, machine, strengths)

    return made


@pytest.fixture(scope="module")
def pipeline(source):
    """The first LoRA comes in after half of the steps, the second all the time."""
    pipeline = Pipeline(source(HALF, ""))
    pipeline.load()
    return pipeline


def asked(sampler="EulerEDMSampler", steps=4) -> tuple:
    """For two pictures: text, negative, settings, seeds, words."""
    rng, model = np.random.default_rng(5), small_model.model()
    width, pooled = model.unet.context_dim, model.text_encoders[1].embed_dim
    text, negative = (
        TextEmbedding(rng.standard_normal((77, width), np.float32), rng.standard_normal(pooled).astype(np.float32))
        for _ in range(2)
    )
    return text, negative, replace(SampleSettings.square(SIZE, steps), sampler=sampler), [1, 2], "sampling"


# -- schedules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["EulerEDMSampler", "HeunEDMSampler"])
def test_a_schedule_is_what_two_half_runs_make(pipeline, monkeypatch, sampler):
    """The second with another strength, on what the first has left; for samplers of one call a step and of two."""
    pictures, asks = pipeline.pictures, asked(sampler)
    scheduled = pictures.latents(*asks)
    again = pictures.latents(*asks)
    cell = pictures.sampler.denoiser.cell
    matrices = [p for p in cell.get_parameters() if p.name.endswith("lora_B.weight")]
    stack, hook = pipeline.weights.stack, pictures.sampler.before_step
    monkeypatch.setattr(pictures.sampler, "before_step", lambda share: None)

    def at(first: float) -> None:
        sdxl.set_values(matrices, LoraStack(stack.files, [first * 0.7, 0.4]).read)

    at(0.0)
    off, begun = pictures.latents(*asks), pictures.latents(*asks, Start(until=0.5))
    at(1.0)
    on, ended = pictures.latents(*asks), pictures.latents(*asks, Start(latent=begun, since=0.5))
    assert np.array_equal(scheduled, ended) and np.array_equal(scheduled, again)
    hook.written = [1.0, 1.0]
    for other in (off, on):
        assert np.abs(scheduled - other).max() > 1e-3
    assert len(pictures.sampler.denoiser.compiled) == len(cell.compile_cache) == 1


def test_only_what_changes_is_written(pipeline, monkeypatch):
    """Once for each point of the schedule, B of the UNet alone; nothing where the steps in a row have one factor."""
    written = []

    def set_values(parameters, read):
        written.append({p.name for p in parameters})
        original(parameters, read)

    original = sdxl.set_values
    monkeypatch.setattr(sdxl, "set_values", set_values)
    pipeline.pictures.latents(*asked(steps=6))
    del written[0]  # what a run before has left is changed back
    pipeline.pictures.latents(*asked(steps=6))
    names = {f"{m}.lora_B.weight" for m in pipeline.weights.files[0].modules if m.startswith(UNET)}
    assert written == [names, names, names] and len(names) == 16


def test_values_between_steps_are_those_of_the_formula(source):
    """Of two LoRA with schedules of their own; also after a change that was interrupted."""
    weights = source("0:0,0.3:1", "0:1,0.3:-0.5,0.8:0").open()
    unet = sdxl.load(sdxl.build_unet(small_model.model(), adapters=weights.adapters), weights.read, "UNet")
    schedule = LoraSchedule(unet, weights.stack)
    name = next(name for name in schedule.matrices)
    first, second = (file.read(name) / np.float32(2) for file in weights.files)  # alpha 1, rank 2

    def found(share: float) -> np.ndarray:
        schedule(share)
        return schedule.matrices[name].asnumpy()

    def expected(factor: float, other: float) -> np.ndarray:
        return np.concatenate([first * np.float32(0.7 * factor), second * np.float32(0.4 * other)], 1)

    for share, factors in ((0.0, (0, 1)), (0.29, (0, 1)), (3 / 10, (1, -0.5)), (0.9, (1, 0)), (0.0, (0, 1))):
        assert np.allclose(found(share), expected(*factors), rtol=1e-6), share
    read, weights.files[0].read = weights.files[0].read, None
    with pytest.raises(TypeError):
        schedule(0.5)
    weights.files[0].read = read
    assert np.allclose(found(0.5), expected(1, -0.5), rtol=1e-6) and np.allclose(found(0.0), expected(0, 1), rtol=1e-6)


def test_pictures_that_are_made_again_in_float32_follow_it(pipeline, source, monkeypatch):
    """Where they would be made by a process of its own, here with the networks that there are."""
    pictures, unet = pipeline.pictures, pipeline.pictures.sampler.denoiser.cell.network.unet
    hook = pictures.sampler.before_step
    expected = pictures.latents(*asked())
    monkeypatch.setattr(pictures.sampler, "before_step", lambda share: None)
    monkeypatch.setattr(full_precision, "sdxl", SimpleNamespace(**{**vars(sdxl), "build_unet": lambda *_: unet}))
    monkeypatch.setattr(full_precision, "PictureSampler", lambda *_: pictures)
    for schedules, is_same in (((HALF, ""), True), (("0:1", ""), False)):
        found = full_precision._latents(source(*schedules), *asked(), Start())
        assert np.array_equal(found, expected) == is_same
    hook.written = [np.nan, np.nan]


# -- LoRA that come and go -----------------------------------------------------------------------------------------------


def test_lora_at_strengths_of_their_own_come_and_go(small, loras, kept_networks):
    """After each change the weights are those of the formula, without LoRA the base's to the bit; nothing is compiled anew."""
    kept = Pipeline(Source(small_model.model(), str(small.weights), runtime.start(runtime.CPU, 0)))
    kept.load(keep_text_encoders=True)
    cells = kept.embedder.call.cell, kept.pictures.sampler.denoiser.cell
    base, paths = open_base(kept.source.weight), [str(loras / name) for name in ("first.ckpt", "second.ckpt")]
    strengths = [Strength(0.5, 0.0, blocks_of("mid=2")), Strength(-1.0, 0.3)]
    settings, files = SampleSettings.square(SIZE, 1), [open_lora(path) for path in paths]

    def made() -> np.ndarray:
        kept.embed(["a dog"])
        return kept.sample("a dog", "", settings, 1, "sampling")

    def holds(files, strengths) -> bool:
        read = merged(base.read, LoraStack(files, strengths))
        return all(np.array_equal(p.asnumpy(), read(p.name)) for cell in cells for p in cell.get_parameters())

    plain = made()
    calls = kept.embedder.call, kept.pictures.sampler.denoiser, kept.pictures.decode
    graphs = [len(call.cell.compile_cache) for call in calls]
    one = Strength(1.0)
    changes = [
        (paths, strengths),
        (paths, strengths[::-1]),
        (paths[:1], [one]),
        ([], []),
        (paths[1:], strengths[:1]),
        ([], []),
    ]
    for given, at in changes:
        kept.change_lora(given, at)
        assert holds([file for file in files if str(file.path) in given], at)
        assert np.array_equal(made(), plain) == (not given)
    kept.change_lora(paths, 0.5)  # one number for all
    assert holds(files, [0.5, 0.5])
    kept.change_lora([])
    assert holds([], [])
    assert graphs == [len(call.cell.compile_cache) for call in calls] == [len(call.compiled) for call in calls]


def test_prompts_with_lora_of_their_own(small, loras, tmp_path, run, kept_networks):
    """Each picture is that of a command with its LoRA in --weight, in one command that compiles nothing more for it."""

    def made(name: str, weight: str, prompt: str, *more) -> tuple[list[np.ndarray], str]:
        (tmp_path / f"{name}.txt").write_text(prompt)
        flags = ("--config", tiny.INFERENCE, "--weight", weight, "--device_target", "CPU", "--height", SIZE, "--width", SIZE)
        flags += ("--sample_step", 2, "--save_path", tmp_path / name, "--prompt_style", "a1111", *SMALL, *more)
        status, said = run(sampling_without_streamlit, *flags, "--prompt", tmp_path / f"{name}.txt")
        assert status == 0, said
        return [np.asarray(Image.open(path)) for path in sorted((tmp_path / name).glob("0*.png"))], said

    prompts = "a dog <lora:first:0.5>\na dog\na dog <lora:second:0.2:0.9> <lora:first>\na cat <lora:first:0.5>\n"
    found, said = made("own", small.weights, prompts, "--lora_dir", loras)
    assert max(said.count(f"compiling the {graph}: ") for graph in ("sampling graph", "text encoders", "decoder")) <= 1
    assert f"LoRA {loras}/second.ckpt: rank 2, strength 0.9 in the UNet, 0.2 in the text encoders" in said
    first, second = loras / "first.ckpt", loras / "second.ckpt"
    for number, weight, flags in (
        (0, f"{small.weights},{first}", ("--lora_scale", 0.5)),
        (1, small.weights, ()),
        (2, f"{small.weights},{second},{first}", ("--lora_scale", "0.9,1", "--lora_text_scale", "0.2,1")),
    ):
        (expected,), _ = made(f"given{number}", str(weight), "a dog\n", *flags)
        assert np.array_equal(found[number], expected), number
    assert len({picture.tobytes() for picture in found}) == 4
    text = Image.open(tmp_path / "own" / "00000.png").text
    assert text["prompt"] == "a dog <lora:first:0.5>" and text["lora_dir"] == str(loras)
