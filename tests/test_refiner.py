"""SDXL's refiner: its YAML and weights, one to one at full size; its networks and both ways of a second stage against diffusers'
own, at tiny size; and what is refused."""

import gzip
import json
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
from mindspore import Tensor
from PIL import Image
from safetensors.numpy import load_file, save_file

import diffusers_models
import tiny
from demo import sampling_without_streamlit
from gm import memory
from gm.checkpoint.blocks import network_of
from gm.checkpoint.lora_files import open_lora
from gm.checkpoint.lora_rules import lora_names
from gm.checkpoint.rules import official_shapes
from gm.checkpoint.weights import open_base
from gm.config.load import load_config
from gm.config.types import SampleSettings
from gm.diffusion.schedule import sampling_sigmas
from gm.encoding.text import TextEmbedder, TextEmbedding
from gm.errors import UserError
from gm.models import sdxl
from gm.models.conditioner import SizeEmbedding, tokenize
from gm.options.sample import parse_sample
from gm.sampling.noise import NOISES
from gm.sampling.pictures import PictureSampler
from gm.sampling.stages import Shares, noises_of, told_scores
from gm.sampling.start import Start, drawn
from modes import in_mode
from tools import make_random_checkpoint

pytestmark = pytest.mark.xdist_group("refiner")
FULL = tiny.ROOT / "configs/inference/sd_xl_refiner.yaml"
TINY = tiny.ROOT / "configs/inference/tiny_sdxl_refiner.yaml"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}
PIXELS, STEPS, SCALE, SEED = 128, 6, 5.0, 7
PROMPT, NEGATIVE = "a red dog with stripes", "blue"


@pytest.fixture(scope="module")
def model():
    return load_config(str(TINY), training=False).model


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A tiny refiner full of random numbers, in one official file."""
    path = tmp_path_factory.mktemp("refiner") / "sd_xl_refiner.safetensors"
    make_random_checkpoint.main(["--config", str(TINY), "--output", str(path), "--dtype", "float32"])
    return path


@pytest.fixture(scope="module")
def modules(model, weights):
    """The same in diffusers' and transformers' own modules: folder name -> module."""
    arrays = diffusers_models.tensors(weights, sdxl.expected_shapes(model)[0])
    return {name: diffusers_models.fill(one, arrays[name]).eval() for name, one in diffusers_models.models(model).items()}


# -- names and shapes ----------------------------------------------------------------------------------------------------


def test_full_size_names_and_shapes_are_the_official_1858(full_keys):
    """The list: of the UNet what sgm's UNetModel has with the sizes of Stability's YAML (which gives the base's list with those of
    the base); of text encoder and first stage those of the base's second encoder and first stage."""
    official = json.loads(gzip.decompress((tiny.ROOT / "tests/sd_xl_refiner_1.0.keys.json.gz").read_bytes()))
    model = load_config(str(FULL), training=False).model
    found = official_shapes(sdxl.expected_shapes(model)[0])
    assert len(official) == 1858 and found == {name: tuple(shape) for name, shape in official.items()}
    base = {
        name.replace("embedders.1.", "embedders.0.") for name in full_keys if not name.startswith("conditioner.embedders.0")
    }
    assert {name for name in base if not name.startswith("model.")} == {
        name for name in found if not name.startswith("model.")
    }
    unet = {name: shape for name, shape in found.items() if name.startswith("model.diffusion_model.")}
    assert sum(int(np.prod(shape)) for shape in unet.values()) == 2_259_526_660
    assert {network_of(name) for name in found} == {"UNet", "VAE", "text encoder 2"}


def test_the_yaml_of_the_earlier_example_is_read(tmp_path):
    """With a number or a list for the depth and the width of the text."""
    model = load_config(str(FULL), training=False).model
    network = "model.params.network_config.params"
    for words in (f"{network}.context_dim=[1280,1280,1280,1280]", f"{network}.transformer_depth=[4,4,4,4]"):
        assert load_config(str(FULL), [words], training=False).model == model
    assert (model.size_count, model.context_dim, model.pooled_dim, model.unet.downsampling) == (5, 1280, 1280, 64)
    without = tmp_path / "plain.yaml"
    without.write_text(FULL.read_text().replace("version: SDXL-refiner-1.0\n", ""))
    assert load_config(str(without), training=False).version == "SDXL-refiner-1.0"


NETWORK, EMBEDDERS = "model.params.network_config.params", "model.params.conditioner_config.params.emb_models"
DENOISER = "model.params.denoiser_config.params"
V_SCALING = f"{DENOISER}.scaling_config.target=gm.modules.diffusionmodules.denoiser_scaling.VScaling"


@pytest.mark.parametrize(
    "words, training, said",
    [
        ("version=SDXL-base-1.0", False, "has the version SDXL-base-1.0, but the emb_models of SDXL-refiner-1.0"),
        ("", True, "of SDXL-refiner-1.0, which this suite samples from and does not train: give a YAML of the base"),
        (f"{NETWORK}.context_dim=[1280,640]", False, "every block sees the same text"),
        (f"{NETWORK}.context_dim=[]", False, "must be a whole number or a list of whole numbers"),
        (f"{NETWORK}.transformer_depth=[4,4]", False, "give one for each level"),
        (f"{NETWORK}.adm_in_channels=2816", False, "pooled text and sizes have 2560 channels"),
        (f"{EMBEDDERS}.3.input_key=target_size_as_tuple", False, "of the refiner the second encoder, then those for"),
        (f"{EMBEDDERS}.1.input_key=crop_coords_top_left", False, "of the refiner the second encoder, then those for"),
    ],
)
def test_a_yaml_that_cannot_be(words, training, said):
    with pytest.raises(UserError, match=said) as error:
        load_config(str(FULL), [words] if words else [], training=training)
    assert "\n" not in str(error.value)


def test_loading_is_strict(model, weights, tiny_weights, base_shapes):
    shapes, _ = sdxl.expected_shapes(model)
    open_base(weights).check(shapes)
    with pytest.raises(
        UserError, match=r"--pipeline_weight .* does not fit the model of --pipeline_config: tensors \d+ missing"
    ):
        open_base(tiny_weights).check(shapes, "--pipeline_weight", "--pipeline_config")
    with pytest.raises(UserError, match="does not fit the model of --config"):
        open_base(weights).check(base_shapes)


def test_diffusers_folder_of_the_refiner_is_the_same_model(model, weights, modules, tmp_path, base_shapes):
    for name, module in modules.items():
        module.save_pretrained(tmp_path / name)
    assert set(modules) == {"unet", "vae", "text_encoder_2"}
    found, given = open_base(tmp_path), open_base(weights)
    found.check(sdxl.expected_shapes(model)[0])
    assert found.digest(("model.", "first_stage", "conditioner.")) == given.digest(("model.", "first_stage", "conditioner."))
    text = load_file(tmp_path / "text_encoder_2" / "model.safetensors")
    name = next(name for name in text if name.endswith("token_embedding.weight"))
    save_file(text | {name: np.zeros((49408, 16), np.float32)}, tmp_path / "text_encoder_2" / "model.safetensors")
    with pytest.raises(UserError, match="is a folder without text_encoder/"):  # a base that is not whole
        open_base(tmp_path)


def test_lora_of_the_base_and_of_the_refiner_are_told_apart(model, weights, tmp_path):
    names, shapes = lora_names(model), sdxl.expected_shapes(model)[0]

    def saved(name: str, modules, layout: str, names) -> Path:
        """With matrices that fit the tiny refiner, as far as it has the module."""
        arrays = {}
        for module in modules:
            outputs, inputs = shapes.get(f"{module}.weight", (32, 32))
            foreign = names.foreign(module, layout)
            arrays[f"{foreign}.lora_down.weight"] = np.ones((2, inputs), np.float32)
            arrays[f"{foreign}.lora_up.weight"] = np.ones((outputs, 2), np.float32)
        save_file(arrays, tmp_path / name)
        return tmp_path / name

    for layout in ("kohya", "kohya-diffusers"):
        file = open_lora(saved(f"{layout}.safetensors", names.modules, layout, names), model)
        file.check_against_base(shapes)
        assert len(file.modules) == len(names.modules)
    assert any(module.startswith("conditioner.embedders.0.model.transformer") for module in names.modules)
    deep = [
        module for module in lora_names().modules if ".transformer_blocks.9." in module
    ]  # of SDXL's base, the refiner has 4
    with pytest.raises(UserError, match="belong to no linear layer of this model's transformers"):
        open_lora(saved("base.safetensors", deep, "kohya", lora_names()), model)
    wide = saved("wide.safetensors", names.modules[:1], "kohya", names)
    with pytest.raises(UserError, match="was made for another model"):
        open_lora(wide, model).check_against_base({})


def test_what_a_call_takes_of_memory(model):
    """By hand: of the levels that are left open on the way up, and the largest of one block's: the middle's attention comes where
    its level has none."""
    unet = load_config(str(FULL), training=False).model.unet
    points = [128 * 128, 64 * 64, 32 * 32, 16 * 16]
    widths = [384, 768, 1536, 1536]
    kept = sum(3 * count * width * 2 for count, width in zip(points, widths))
    assert memory.unet_call(unet, 1024, 1024, 1, 2) == kept + 12 * points[1] ** 2 * memory.SCORES
    depths = [level.depth for level in memory.levels(unet, 1024, 1024)]
    assert depths == [0, 4, 4, 0]


# -- networks ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def embedded(modules, model, prompt: str) -> TextEmbedding:
    """Of transformers' encoders, as the refiner has one or the base two."""
    ids = [torch.from_numpy(one.astype(np.int64)) for one in tokenize([prompt])]
    second = modules["text_encoder_2"](ids[1], output_hidden_states=True)
    states = [second.hidden_states[-2]]
    if "text_encoder" in modules:
        first = modules["text_encoder"](ids[0], output_hidden_states=True)
        states.insert(0, first.hidden_states[model.text_encoders[0].layer_idx])
    return TextEmbedding(torch.cat(states, -1)[0].numpy(), second.text_embeds[0].numpy())


def test_networks_are_diffusers(model, weights, modules):
    """One call of the UNet and of the text encoder on the same numbers."""
    read = open_base(weights).read
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 4, 16, 16), np.float32)
    context = random.standard_normal((2, 77, 32), np.float32)
    pooled = random.standard_normal((2, 32), np.float32)
    sizes, times = np.float32([[512, 768, 3, 5, 6.0], [64, 64, 0, 0, 2.5]]), np.float32([981, 11])
    with in_mode(ms.PYNATIVE_MODE):
        unet, encoders = sdxl.build_unet(model), sdxl.build_text_encoders(model)
        sdxl.fill([unet, encoders], read)
        vector = SizeEmbedding(model)(Tensor(pooled), Tensor(sizes))
        assert vector.shape == (2, 1312)
        found = unet(Tensor(x), Tensor(times), Tensor(context), vector).asnumpy()
        text = TextEmbedder(encoders)([PROMPT])[PROMPT]
    with torch.no_grad():
        added = {"text_embeds": torch.from_numpy(pooled), "time_ids": torch.from_numpy(sizes)}
        wanted = modules["unet"](
            torch.from_numpy(x), torch.from_numpy(times), torch.from_numpy(context), added_cond_kwargs=added
        ).sample.numpy()
    assert tiny.relative_error(found, wanted) < 1e-5
    for ours, theirs in zip(text, embedded(modules, model, PROMPT)):
        assert ours.shape == theirs.shape and tiny.relative_error(ours, theirs) < 1e-5


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
def theirs(tiny_weights, base_shapes, model, modules) -> Theirs:
    return Theirs(tiny_weights, base_shapes, model, modules)


@pytest.fixture
def command(tiny_weights, weights, run, tmp_path, kept_networks):
    def runs(*more, at=tmp_path) -> tuple[int, str, list[Path]]:
        """The sampling command, of both stages where it says so: status, what it said, its pictures."""
        words = ["--config", tiny.INFERENCE, "--weight", tiny_weights, "--device_target", "CPU", "--save_path", at]
        words += ["--pipeline_config", TINY, "--pipeline_weight", weights] if "--add_pipeline" in more else []
        words += ["--prompt", PROMPT, "--seed", SEED]
        words += ["--height", PIXELS, "--width", PIXELS, "--sample_step", STEPS, "--noise", "torch"]
        with in_mode(ms.PYNATIVE_MODE):  # the same numbers, and nothing to compile
            status, said = run(sampling_without_streamlit, *words, "--ms_mode", 1, *more)
        return status, said, sorted(at.glob("0*.png"))

    return runs


EULER, ANCESTRAL = EulerDiscreteScheduler(**BETAS), EulerAncestralDiscreteScheduler(**BETAS)
WAYS = {  # flags, diffusers' scheduler, what its base and its refiner are given, negative prompt
    "ensemble": (["--refiner_switch", 0.6], EULER, {"denoising_end": 0.6}, {"denoising_start": 0.6}, NEGATIVE),
    "ensemble, Euler a": (
        ["--sampler", "EulerAncestralSampler", "--stage2strength", 0.5],
        *(ANCESTRAL, {"denoising_end": 0.5}, {"denoising_start": 0.5}, ""),
    ),
    "whole picture": (
        ["--finish_denoising", False, "--stage2strength", 0.4, "--aesthetic_score", 7, "--negative_aesthetic_score", 1],
        *(EULER, {}, {"strength": 0.4, "aesthetic_score": 7.0, "negative_aesthetic_score": 1.0}, NEGATIVE),
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
    """A LoRA of --weight changes what the base makes; pictures of a batch are those that are made alone, but for rounding."""
    module = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"
    outputs, inputs = base_shapes[f"{module}.weight"]
    lora = {
        f"{module}.lora_A.weight": np.ones((1, inputs), np.float32),
        f"{module}.lora_B.weight": np.ones((outputs, 1), np.float32),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n{NEGATIVE} --d {SEED + 1}\n")
    few = ["--add_pipeline", True, "--refiner_switch", 0.5, "--sample_step", 2, "--noise", "native"]
    pictures = {}
    for name, more in {
        "batch": ["--prompt", tmp_path / "prompts.txt", "--batch_size", 2],
        "alone": ["--prompt", NEGATIVE, "--seed", SEED + 1],
        "lora": ["--prompt", NEGATIVE, "--seed", SEED + 1, "--weight", f"{tiny_weights},{tmp_path / 'lora.safetensors'}"],
    }.items():
        status, said, found = command(*few, *more, at=tmp_path / name)
        assert status == 0, said
        pictures[name] = [np.asarray(Image.open(path)).astype(int) for path in found]
    assert [len(found) for found in pictures.values()] == [2, 1, 1]
    assert np.abs(pictures["batch"][1] - pictures["alone"][0]).max() <= 1
    assert np.abs(pictures["batch"][0] - pictures["alone"][0]).max() > 20
    assert np.abs(pictures["lora"][0] - pictures["alone"][0]).max() > 2


def test_a_mask_is_kept_in_the_second_stage(model, weights, tiny_weights):
    """In both ways, the latents outside of the mask are those of the given picture."""
    random = np.random.default_rng(1)
    latents, picture = random.standard_normal((2, 1, 4, 8, 8)).astype(np.float32)
    mask = np.zeros((1, 1, 8, 8), np.float32)
    mask[..., :3] = 1.0
    text = TextEmbedding(random.standard_normal((77, 32), np.float32), random.standard_normal(32, np.float32))
    settings = replace(told_scores(SampleSettings.square(64, 4), (6.0, 2.5)), guider="IdentityGuider")
    given = Start(latent=picture, mask=mask)
    with in_mode(ms.PYNATIVE_MODE):
        unet = sdxl.build_unet(model)
        sdxl.fill([unet], open_base(weights).read)
        pictures = PictureSampler(unet, sdxl.build_vae(model), model)
        for shares in (Shares(0.75, 0.15), Shares(1.0, 0.25)):
            assert shares.first(given).mask is mask
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
    "no step": ([*ADDED, "--refiner_switch", 0.95], "--refiner_switch 0.95 leaves the refiner none of 6 steps"),
    "no pass": (
        [*ADDED, "--finish_denoising", False, "--stage2strength", 0.1],
        "--stage2strength 0.1 leaves the refiner none of 6 steps",
    ),
    "levels": (
        [*ADDED, "--set", f"{DENOISER}.discretization_config.params.zero_terminal_snr=True", "--set", V_SCALING],
        "has other noise levels than --config (zero_terminal_snr)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(name, command, weights, tiny_weights, base_shapes, tmp_path):
    module = "conditioner.embedders.1.model.transformer.resblocks.0.attn.q_proj"
    lora = {f"{module}.lora_A.weight": np.ones((1, 32), np.float32), f"{module}.lora_B.weight": np.ones((32, 1), np.float32)}
    save_file(lora, tmp_path / "lora.safetensors")
    words, said = REFUSED[name]
    names = {"weights": weights, "base": tiny_weights, "lora": tmp_path / "lora.safetensors"}
    words = [word.format(**names) if isinstance(word, str) else word for word in words]
    status, errors, _ = command(*words, at=tmp_path / "out")
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(lines) == 1 and said in lines[0], errors[-500:]
    assert not (tmp_path / "out").exists()
