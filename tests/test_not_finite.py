"""Numbers that are not finite, wherever they arise: a sentence that says where, a second try in float32 where half precision was
used, and never a picture."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import load_file

import small as small_model
from gm.checkpoint.io import write_tensors
from gm.config.types import SampleSettings
from gm.diffusion.samplers import SAMPLERS
from gm.encoding import photos, text
from gm.encoding.source import Source
from gm.encoding.text import TextEmbedder, TextEmbedding, embed_apart, unconditional
from gm.errors import UserError
from gm.runtime import CPU, PYNATIVE, Runtime, full_precision
from gm.sampling import full_precision as again
from gm.sampling.latents import LatentSampler
from gm.sampling.pictures import PictureSampler
from gm.sampling.pipeline import Pipeline
from gm.soundness import NotFinite, flat_colour
from modes import in_mode

SETTINGS = SampleSettings.square(64, 3)
TEXT = TextEmbedding(np.ones((77, 4), np.float32), np.ones(4, np.float32))


# -- the sampler, without a network ----------------------------------------------------------------------------------


class Cell:
    def set_train(self, _: bool) -> None:
        pass


class Given(LatentSampler):
    """Predicts zeros, and at call `bad` something else."""

    def __init__(self, bad: int, value: float):
        self.bad, self.value, self.calls = bad, value, 0
        self.table, self.before_step = np.linspace(0.03, 14.6, 1000), lambda share: None
        self.denoiser = type("Call", (), {"cell": Cell()})()

    def denoise(self, x, level, context, pooled, sizes):
        self.calls += 1
        found = np.zeros_like(x)
        if self.calls == self.bad:
            found[-1, 0, 0, 0] = self.value
        return found


def latents(sampler: LatentSampler, settings: SampleSettings = SETTINGS) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    return sampler(TEXT, unconditional(TEXT), settings, noise, lambda *_: noise, "test")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guider", ["VanillaCFG", "IdentityGuider"])
def test_a_step_is_named(sampler, value, guider):
    """The second call of some methods belongs to the first step."""
    settings = replace(SETTINGS, sampler=sampler, guider=guider)
    step = 1 if sampler in ("HeunEDMSampler", "DPMPP2SAncestralSampler", "DPMPPSDESampler") else 2
    given = Given(2, value)
    with pytest.raises(
        NotFinite, match=f"^step {step} of 3 of the sampler gave numbers that are not finite.*base weights or a LoRA"
    ):
        latents(given, settings)
    assert given.calls == 2  # the others would be in vain
    assert np.isfinite(latents(Given(99, value), settings)).all()


@pytest.mark.parametrize(
    "scale, words", [(1e308, "guidance_scale 1e.308"), (-1e39, "guidance_scale -1e.39"), (3e38, "guidance")]
)
def test_guidance_that_is_too_strong_is_named(scale, words):
    with pytest.raises(UserError, match=words):
        latents(Given(1, 5.0), replace(SETTINGS, guidance_scale=scale))


def test_numbers_that_grow_beyond_float32_in_the_last_step_are_seen():
    with pytest.raises(NotFinite):
        latents(Given(3, np.float32(3e38)), replace(SETTINGS, guidance_scale=0.999, sampler="LinearMultistepSampler"))


# -- another try ------------------------------------------------------------------------------------------------------


class Again:
    decodes = True

    def latents(self, *asked):
        return ["again", *asked[-3:-1]]

    def decoded(self, latent):
        return "decoded"


class Decodes:
    def __init__(self, value):
        self.value = value

    def __call__(self, latent):
        return np.full((1, 3, 64, 64), self.value, np.float32)


def sampler_with(latent_sampler, decoded, other) -> PictureSampler:
    made = PictureSampler.__new__(PictureSampler)
    made.sampler, made.decode, made.channels, made.again = latent_sampler, Decodes(decoded), 4, other
    return made


@pytest.mark.parametrize("value", [np.nan, np.inf, 65504.0])
def test_latents_and_decoder_are_tried_again(project_log, value):
    """Once, with one line; where that is not possible it is an error."""
    asked = (TEXT, unconditional(TEXT), SETTINGS, [7], "test")
    assert sampler_with(Given(1, np.nan), 0.0, Again()).latents(*asked) == ["again", [7], "test"]
    assert [r.message.count("once more in float32") for r in project_log.records] == [1]
    assert sampler_with(Given(9, np.nan), value, Again())(*asked) == ["decoded"]
    assert len(project_log.records) == 2
    with pytest.raises(NotFinite, match="^a picture went beyond"):
        sampler_with(Given(9, np.nan), value, None)(*asked)
    other = Again()
    other.decodes = False  # the decoder was in float32 already
    with pytest.raises(NotFinite, match="^a picture went beyond"):
        sampler_with(Given(9, np.nan), value, other)(*asked)


def test_what_is_not_finite_in_float32_either_is_refused():
    class Fails(Again):
        def latents(self, *asked):
            raise NotFinite("in float32 as well")

    with pytest.raises(NotFinite, match="in float32 as well"):
        sampler_with(Given(1, np.nan), 0.0, Fails())(TEXT, unconditional(TEXT), SETTINGS, [7], "test")


def test_where_float32_is_all_that_is_used_nothing_is_tried_again():
    ms.set_device("CPU")
    assert full_precision(CPU) == CPU and again.in_float32(Source(small_model.model(), "a", CPU)) is None
    half = Runtime("CPU", PYNATIVE, "O2")
    found = again.in_float32(Source(small_model.model(), "a", half))
    assert found.source.machine == Runtime("CPU", PYNATIVE, "O0") and not found.decodes


def test_a_chip_without_float32_computes_again_on_the_host(monkeypatch):
    from gm import device

    monkeypatch.setattr(device, "chip", lambda: device.Chip(device.ASCEND_910A))
    found = full_precision(Runtime("Ascend", 0, "O2", device_id=3, max_memory="20GB"))
    assert found == Runtime("CPU", 0, "O0")
    assert again.in_float32(Source(small_model.model(), "a", Runtime("Ascend", 0, "O0"))).decodes
    monkeypatch.setattr(device, "chip", lambda: device.Chip("ascend910b"))
    assert full_precision(Runtime("Ascend", 0, "O2", device_id=3)) == Runtime("Ascend", 0, "O0", device_id=3)


def test_posteriors_are_encoded_again_on_the_host(monkeypatch, project_log):
    """Those alone that are not sound; on a device that computes the VAE in float32 it is an error."""
    calls = []

    def run(function, model, weight, machine, disk, crops):
        calls.append((machine.device, len(crops)))
        return [None if machine.device != "CPU" and key == "bad" else np.float32(key == "bad") for key, _ in crops]

    crop = type("Crop", (), {"path": "dog.jpg"})()
    monkeypatch.setattr(photos, "run_in_subprocess", run)
    monkeypatch.setattr(photos, "full_precision", lambda _: CPU)
    rows = photos.encode_apart(None, None, Runtime("Ascend", 0, "O2"), None, [("a", crop), ("bad", crop), ("c", crop)])
    assert rows == [0, 1, 0] and calls == [("Ascend", 3), ("CPU", 1)]
    assert "photo dog.jpg went beyond float16 in the VAE: 1 crops once more" in project_log.text


# -- the networks themselves -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def changed(small, tmp_path_factory):
    """Weights of the small model with some of them times a factor, in float32."""
    folder = tmp_path_factory.mktemp("changed")

    def write(name: str, factors: dict[str, float]):
        arrays = {key: array.astype(np.float32) for key, array in load_file(small.weights).items()}
        for end, factor in factors.items():
            (key,) = [one for one in arrays if one.endswith(end)]
            arrays[key] = arrays[key] * np.float32(factor)
        write_tensors(folder / name, list(arrays.items()))
        return str(folder / name)

    return write


def inline(monkeypatch) -> list[str]:
    """Processes of their own become calls here; their names."""
    called = []

    def run(function, *arguments):
        called.append(function.__name__)
        return function(*arguments)

    for module in (text, again):
        monkeypatch.setattr(module, "run_in_subprocess", run)
    return called


def sampled(weight: str, level: str) -> np.ndarray:
    """A picture of 64 pixels after one step, as the command makes it."""
    pipeline = Pipeline(Source(small_model.model(), weight, Runtime("CPU", PYNATIVE, level)))
    pipeline.embed(["a dog"])
    pipeline.load()
    return pipeline.sample("a dog", "", SampleSettings.square(64, 1), 7, "test")


CONVOLUTION = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
QUERIES = "encoder.layers.0.self_attn.q_proj.weight"
MLP = "embedders.1.model.transformer.resblocks.0.mlp."


@pytest.mark.xdist_group("small")
@pytest.mark.parametrize(
    "end, factor, words, called",
    [
        (CONVOLUTION, 8e5, "step 1 of 1 of the sampler gave numbers", ["embed_prompts", "_latents"]),
        (QUERIES, 2e5, "the text of the prompt 'a dog' is not finite in half precision", ["embed_prompts"] * 2),
    ],
)
def test_what_float16_is_too_small_for_is_made_in_float32(changed, monkeypatch, project_log, end, factor, words, called):
    """The next layer is a norm or a softmax, so that in float32 such weights do no harm; the picture is that of float32."""
    weight, made = changed("strong.safetensors", {end: factor}), inline(monkeypatch)
    with in_mode(ms.PYNATIVE_MODE):
        half = sampled(weight, "O2")
        assert made == called
        warnings = [record.getMessage() for record in project_log.records if record.levelname == "WARNING"]
        assert len(warnings) == 1 and words in warnings[0] and "once more in float32" in warnings[0]
        full = sampled(weight, "O0")
    assert flat_colour(half) is None and np.abs(half.astype(int) - full).mean() < 3


@pytest.mark.xdist_group("small")
@pytest.mark.parametrize(
    "factors, words",
    [
        ({"diffusion_model.out.2.weight": 1e38}, "step 1 of 1 of the sampler"),
        ({MLP + "c_fc.weight": 1e30, MLP + "c_proj.weight": 1e30}, "the text of the prompt 'a dog'"),
        ({"first_stage_model.decoder.conv_out.weight": 1e38}, "a picture went beyond"),
    ],
)
def test_what_is_not_finite_in_float32_is_refused(changed, monkeypatch, factors, words):
    inline(monkeypatch)
    with in_mode(ms.PYNATIVE_MODE):
        with pytest.raises(NotFinite, match=words):
            sampled(changed("broken.safetensors", factors), "O0")


def test_a_prompt_is_named(monkeypatch):
    class Embeds(TextEmbedder):
        def __init__(self):
            self.max_tokens, self.style, self.words, self.call = 75, "plain", {}, self.compute
            self.compute.__func__.cell = Cell()

        def compute(self, *tokens):
            return np.full((1, 77, 4), np.nan if tokens[0][0, 1] == 320 else 0.0), np.zeros((1, 4))

    embed = Embeds()
    assert np.isfinite(embed(["dog"])["dog"].context).all()
    with pytest.raises(NotFinite, match="^the text of the prompt 'a bad one' gave numbers"):
        embed(["dog", "a bad one"])
    monkeypatch.setattr(text, "run_in_subprocess", lambda function, prompts, source: embed.as_computed(prompts))
    assert embed_apart(["dog"], Source(small_model.model(), "a", CPU)).keys() == {"dog"}
