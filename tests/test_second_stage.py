"""The second stage: what base and refiner make together beside diffusers' own pipelines, at tiny size; and what is refused."""

from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from safetensors.numpy import save_file

import diffusers_models
import tiny
from demo import sampling_without_streamlit
from gm.checkpoint.weights import open_base
from gm.config.types import SampleSettings
from gm.diffusion.schedule import sampling_sigmas
from gm.encoding.text import TextEmbedding
from gm.models import sdxl
from gm.options.sample import parse_sample, sample_settings
from gm.pictures import save_png, text_of
from gm.sampling.like import with_like
from gm.sampling.noise import NOISES
from gm.sampling.output import about
from gm.sampling.pictures import PictureSampler
from gm.sampling.stages import Shares, noises_of, told_scores
from gm.sampling.start import Start, drawn
from modes import in_mode
from refiner import BETAS, DENOISER, FULL, NEGATIVE, PIXELS, PROMPT, SCALE, SEED, STEPS, TINY, V_SCALING, embedded

pytestmark = pytest.mark.xdist_group("refiner")


# -- both stages -----------------------------------------------------------------------------------------------------------


class Theirs:
    """diffusers' two pipelines on the tiny base and the tiny refiner, with one generator for both."""

    def __init__(self, tiny_weights, base_shapes, model, modules):
        arrays = diffusers_models.tensors(tiny_weights, base_shapes)
        base = {
            name: diffusers_models.fill(one, arrays[name]).eval()
            for name, one in diffusers_models.models(tiny.model()).items()
        }
        base["vae"].register_to_config(scaling_factor=model.scale_factor)
        self.base, self.refiner = base, {**modules, "vae": base["vae"]}
        self.model = model

    def __call__(self, scheduler, first: dict, second: dict, negative: str) -> np.ndarray:
        generator = torch.Generator("cpu").manual_seed(SEED)
        base = StableDiffusionXLPipeline(**self.base, tokenizer=None, tokenizer_2=None, scheduler=scheduler)
        refiner = StableDiffusionXLImg2ImgPipeline(
            **{**self.refiner, "text_encoder": None, "tokenizer": None, "tokenizer_2": None},
            scheduler=type(scheduler).from_config(scheduler.config),
            requires_aesthetics_score=True,
        )
        size = {"height": PIXELS, "width": PIXELS}
        texts = embedded(self.base, tiny.model(), PROMPT), embedded(self.base, tiny.model(), negative) if negative else None
        latent = self.run(base, texts, generator, output_type="latent", **size, **first)
        texts = tuple(embedded(self.refiner, self.model, one) for one in (PROMPT, negative))
        made = self.run(refiner, texts, generator, image=latent, output_type="np", **second)
        return np.round(255 * made[0]).astype(np.uint8)

    def run(self, pipe, texts, generator, **more):
        pipe.set_progress_bar_config(disable=True)
        other = texts[1] or TextEmbedding(*(np.zeros_like(one) for one in texts[0]))
        given = {}
        for name, text in (("", texts[0]), ("negative_", other)):
            given[f"{name}prompt_embeds"] = torch.from_numpy(text.context)[None]
            given[f"{name}pooled_prompt_embeds"] = torch.from_numpy(text.pooled)[None]
        return pipe(**given, **more, num_inference_steps=STEPS, guidance_scale=SCALE, generator=generator).images


@pytest.fixture(scope="module")
def theirs(tiny_weights, base_shapes, refiner, refiner_modules) -> Theirs:
    return Theirs(tiny_weights, base_shapes, refiner, refiner_modules)


@pytest.fixture
def command(tiny_weights, refiner_weights, run, tmp_path, kept_networks):
    def runs(*more, at=tmp_path) -> tuple[int, str, list[Path]]:
        """The sampling command, of both stages where it says so: status, what it said, its pictures."""
        words = ["--config", tiny.INFERENCE, "--weight", tiny_weights, "--device_target", "CPU", "--save_path", at]
        words += ["--pipeline_config", TINY, "--pipeline_weight", refiner_weights] if "--add_pipeline" in more else []
        words += ["--prompt", PROMPT, "--seed", SEED]
        words += ["--height", PIXELS, "--width", PIXELS, "--sample_step", STEPS, "--noise", "torch"]
        with in_mode(ms.PYNATIVE_MODE):  # the same numbers, and nothing to compile
            status, said = run(sampling_without_streamlit, *words, "--ms_mode", 1, *more)
        return status, said, sorted(at.glob("0*.png"))

    return runs


EULER, ANCESTRAL = EulerDiscreteScheduler(**BETAS), EulerAncestralDiscreteScheduler(**BETAS)
WAYS = {  # flags, diffusers' scheduler, what its base and its refiner are given, negative prompt
    "ensemble": (["--refiner_switch", 0.7], EULER, {"denoising_end": 0.7}, {"denoising_start": 0.7}, NEGATIVE),
    "ensemble, Euler a": (
        ["--sampler", "EulerAncestralSampler", "--stage2strength", 0.5],
        *(ANCESTRAL, {"denoising_end": 0.5}, {"denoising_start": 0.5}, ""),
    ),
    "whole picture": (
        ["--finish_denoising", False, "--stage2strength", 0.5, "--aesthetic_score", 7, "--negative_aesthetic_score", 1],
        *(EULER, {}, {"strength": 0.5, "aesthetic_score": 7.0, "negative_aesthetic_score": 1.0}, NEGATIVE),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_pictures_of_both_stages_are_diffusers(command, theirs, way):
    flags, scheduler, first, second, negative = WAYS[way]
    status, said, pictures = command("--add_pipeline", True, "--negative_prompt", negative, *flags)
    assert status == 0, said
    ours, wanted = np.asarray(Image.open(pictures[0])), theirs(scheduler, first, second, negative)
    assert ours.std() > 20 and ours.shape == wanted.shape
    difference = int(np.abs(ours.astype(int) - wanted).max())
    print(f"{way}: {difference} grey levels")
    assert difference <= 2


def test_prompt_files_batches_and_lora_of_the_base(command, tiny_weights, base_shapes, tmp_path):
    """Both stages of two prompts at once; a LoRA of --weight changes what the base makes."""
    module = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"
    outputs, inputs = base_shapes[f"{module}.weight"]
    lora = {
        f"{module}.lora_A.weight": np.ones((1, inputs), np.float32),
        f"{module}.lora_B.weight": np.linspace(-9, 9, outputs, dtype=np.float32)[:, None],
    }
    save_file(lora, tmp_path / "lora.safetensors")
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n{NEGATIVE} --d {SEED + 1}\n")
    few = ["--add_pipeline", True, "--refiner_switch", 0.5, "--sample_step", 2, "--guider", "IdentityGuider"]
    few += ["--height", 64, "--width", 64, "--prompt", tmp_path / "prompts.txt", "--batch_size", 2]
    pictures = {}
    for name, more in {"base": [], "lora": ["--weight", f"{tiny_weights},{tmp_path / 'lora.safetensors'}"]}.items():
        status, said, found = command(*few, *more, at=tmp_path / name)
        assert status == 0, said
        pictures[name] = [np.asarray(Image.open(path)).astype(int) for path in found]
    assert [len(found) for found in pictures.values()] == [2, 2]
    assert np.abs(pictures["base"][0] - pictures["base"][1]).max() > 20
    assert all(np.abs(one - other).max() > 5 for one, other in zip(*pictures.values()))


def test_a_mask_is_kept_in_the_second_stage(refiner, refiner_weights, tiny_weights):
    """In both ways, the latents outside of the mask are those of the given picture."""
    random = np.random.default_rng(1)
    latents, picture = random.standard_normal((2, 1, 4, 8, 8)).astype(np.float32)
    mask = np.zeros((1, 1, 8, 8), np.float32)
    mask[..., :3] = 1.0
    text = TextEmbedding(random.standard_normal((77, 32), np.float32), random.standard_normal(32, np.float32))
    settings = replace(told_scores(SampleSettings.square(64, 4), (6.0, 2.5)), guider="IdentityGuider")
    given = Start(latent=picture, mask=mask)
    with in_mode(ms.PYNATIVE_MODE):
        unet = sdxl.build_unet(refiner)
        sdxl.fill([unet], open_base(refiner_weights).read)
        pictures = PictureSampler(unet, sdxl.build_vae(refiner), refiner)
        for shares in (Shares(0.75, 0.15), Shares(1.0, 0.25)):
            assert shares.first(given).mask is mask
            unseen = shares.second(Start(mask=mask, masked=picture), latents, 1)  # of an inpainting UNet, at strength 1
            assert unseen.mask is None and unseen.latent is latents and unseen.drawn == 2
            second = shares.second(given, latents, noises_of(settings, pictures.sampler.table, shares.first(given)))
            found = pictures.latents(text, text, settings, [SEED], "masked", second)
            assert np.array_equal(found[..., 3:], picture[..., 3:])
            assert np.abs(found[..., :3] - picture[..., :3]).max() > 0.1


@pytest.mark.parametrize("name", NOISES)
def test_no_noise_is_there_twice(name):
    """The second network draws what comes after the noises of the first."""
    table, shape = sampling_sigmas(), (1, 2, 2)
    settings = SampleSettings.square(64, 10)
    ancestral = replace(settings, sampler="EulerAncestralSampler")
    assert [noises_of(one, table, Start()) for one in (settings, ancestral)] == [1, 10]
    assert [noises_of(one, table, Start(until=0.8)) for one in (settings, ancestral)] == [1, 9]
    source, used = NOISES[name](SEED, shape), []
    used.append(source.first())
    used += [source.next() for _ in range(5)]
    again = [NOISES[name](SEED, shape)]
    _, first = drawn(Start(latent=np.zeros((1, *shape)), strength=0.5, drawn=5), again)
    assert np.array_equal(first[0], used[5])
    again = [NOISES[name](SEED, shape)]
    start, first = drawn(Start(latent=np.zeros((1, *shape)), since=0.8, drawn=5), again)
    assert first is None and start.latent is not None and np.array_equal(again[0].next(), used[5])


def test_a_picture_says_how_its_stages_were_made(refiner_weights, tmp_path):
    """A1111's words for the refiner; --like repeats it, with what is given beside it; a picture of the refiner alone as well."""

    def saved(*words) -> list:
        options = parse_sample(["--prompt", PROMPT, "--aesthetic_score", "7", *map(str, words)])
        how = sample_settings(options, 8)
        how = how if options.add_pipeline else told_scores(how, options.refiner_scores)
        save_png(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8), about(options, how, PROMPT, 3))
        return ["--like", str(tmp_path / "a.png"), "--weight", str(refiner_weights)]

    like = saved("--add_pipeline", True, "--pipeline_weight", refiner_weights, "--refiner_switch", 0.8)
    assert "Refiner: sd_xl_refiner, Refiner switch at: 0.8" in text_of(tmp_path / "a.png")["parameters"]
    again = parse_sample(with_like(like))
    assert (again.add_pipeline, again.pipeline_weight, again.refiner_starts) == (True, str(refiner_weights), 0.8)
    assert (again.refiner_scores, again.seed) == ((7.0, 2.5), 3)
    again = parse_sample(with_like([*like, "--finish_denoising", "False", "--stage2strength", "0.3"]))
    assert (again.refiner_starts, again.refiner_strength) == (None, 0.3)
    again = parse_sample(with_like([*like, "--add_pipeline", "False", "--prompt", "b"]))
    assert not again.add_pipeline and again.pipeline_weight is None and again.prompt == "b"
    again = parse_sample(with_like(saved("--config", TINY, "--orig_height", 500)))
    assert (again.config, again.orig_height, again.target_height, again.aesthetic_score) == (str(TINY), 500, None, 7.0)


# -- what is refused -----------------------------------------------------------------------------------------------------


def test_flags_mean_what_they_do_in_the_earlier_example():
    def found(*words):
        one = parse_sample(["--add_pipeline", "True", *words])
        return one.refiner_starts, one.refiner_strength

    assert found() == (0.85, 0.15)
    assert found("--stage2strength", "0.3") == (0.7, 0.3)
    assert found("--stage2strength", "0.3", "--finish_denoising", "False") == (None, 0.3)
    assert found("--refiner_switch", "0.8")[0] == 0.8
    told = told_scores(replace(SampleSettings.square(64, 4), negative_sizes=(1, 2, 3, 4, 5, 6)), (6.0, 2.5))
    assert (told.sizes, told.negative_sizes) == ((64, 64, 0, 0, 6.0), (1, 2, 3, 4, 2.5))


ADDED = ["--add_pipeline", True]
REFUSED = {  # more flags -> the end of the sentence; {folder}: of the case
    "switch alone": (
        ["--refiner_switch", 0.8],
        "--refiner_switch is about the second stage, and there is none: give --add_pipeline",
    ),
    "config alone": (["--pipeline_weight", "a"], "--pipeline_weight is about the second stage"),
    "two shares": ([*ADDED, "--refiner_switch", 0.8, "--stage2strength", 0.2], "give one of them"),
    "score alone": (["--aesthetic_score", 6], "--aesthetic_score is told to the refiner alone"),
    "score": ([*ADDED, "--aesthetic_score", 11], "at most 10"),
    "share": ([*ADDED, "--stage2strength", 0], "--stage2strength: 0 is too small"),
    "base as refiner": ([*ADDED, "--pipeline_config", tiny.INFERENCE], "is of a base: give the refiner's YAML"),
    "refiner as base": ([*ADDED, "--config", TINY, "--weight", "{weights}"], "give a base as --config"),
    "other first stage": ([*ADDED, "--pipeline_config", FULL], "has another first stage than --config"),
    "no file": ([*ADDED, "--pipeline_weight", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
    "base weights": ([*ADDED, "--pipeline_weight", "{base}"], "does not fit the model of --pipeline_config"),
    "lora of the base": ([*ADDED, "--pipeline_weight", "{weights},{lora}"], "was made for another model"),
    "lora alone": ([*ADDED, "--pipeline_weight", "{lora}"], "(--pipeline_weight base,lora takes both)"),
    "no step": ([*ADDED, "--refiner_switch", 0.95], "--refiner_switch 0.95 leaves the refiner none of 4 steps"),
    "no pass": (
        [*ADDED, "--finish_denoising", False, "--stage2strength", 0.1],
        "--stage2strength 0.1 leaves the refiner none of 4 steps",
    ),
    "levels": (
        [*ADDED, "--set", f"{DENOISER}.discretization_config.params.zero_terminal_snr=True", "--set", V_SCALING],
        "has other noise levels than --config (zero_terminal_snr)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(name, command, refiner_weights, tiny_weights, base_shapes, tmp_path):
    module = "conditioner.embedders.1.model.transformer.resblocks.0.attn.q_proj"
    lora = {f"{module}.lora_A.weight": np.ones((1, 32), np.float32), f"{module}.lora_B.weight": np.ones((32, 1), np.float32)}
    save_file(lora, tmp_path / "lora.safetensors")
    words, said = REFUSED[name]
    names = {"weights": refiner_weights, "base": tiny_weights, "lora": tmp_path / "lora.safetensors"}
    words = [word.format(**names) if isinstance(word, str) else word for word in words]
    status, errors, _ = command(*words, at=tmp_path / "out")
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(lines) == 1 and said in lines[0], errors[-500:]
    assert not (tmp_path / "out").exists()
