"""Every golden number of the PyTorch originals, through the suite's own networks, samplers and training step."""

from typing import Sequence

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import tiny
from gm.config.types import Adapter, SampleSettings
from gm.diffusion.schedule import legacy_ddpm_sigmas, train_sigmas
from gm.encoding.text import TextEmbedder, TextEmbedding, unconditional
from gm.errors import UserError
from gm.models import sdxl
from gm.models.adapters import lora_state
from gm.models.conditioner import SizeEmbedding, tokenize
from gm.models.text_products import widen
from gm.models.vae import VAEDecode, VAEEncode
from gm.sampling.latents import LatentSampler
from gm.training.batches import MicroBatch
from gm.training.micro_step import SUMS
from gm.training.step import LossScale, Trainer
from modes import in_mode

pytestmark = pytest.mark.xdist_group("golden")
POOLED = 32  # of the vector's 1568 columns


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)


def filled(cell, read):
    sdxl.fill([cell], read)
    return cell


@pytest.fixture(scope="module")
def read(tiny_weights, golden):
    return tiny.reader(tiny_weights, golden)


@pytest.fixture(scope="module")
def plain_unet(read):
    return filled(sdxl.build_unet(tiny.model()), read)


@pytest.fixture(scope="module")
def latent_sampler(plain_unet):
    return LatentSampler(plain_unet, tiny.model())


@pytest.fixture(scope="module")
def vae(read):
    return filled(sdxl.build_vae(tiny.model()), read)


def text_of(golden, row: int = 0) -> TextEmbedding:
    return TextEmbedding(golden["cond.context"][row], golden["cond.vector"][row, :POOLED])


def test_sigmas(golden):
    assert tiny.relative_error(train_sigmas(), golden["sigmas.all1000"]) < 1e-6
    assert tiny.relative_error(legacy_ddpm_sigmas(40), golden["sigmas.steps40"]) < 1e-6


def test_conditioner(golden, read, setting):
    encoders = filled(sdxl.build_text_encoders(tiny.model()), read)
    tokens = tokenize(setting["prompts"])
    assert (tokens[0] == golden["cond.tokens_l"]).all() and (tokens[1] == golden["cond.tokens_g"]).all()
    texts = TextEmbedder(encoders)(setting["prompts"])
    context = np.stack([texts[prompt].context for prompt in setting["prompts"]])
    assert tiny.relative_error(context, golden["cond.context"]) < 1e-4
    pooled = np.stack([texts[prompt].pooled for prompt in setting["prompts"]])
    vector = SizeEmbedding(tiny.model())(Tensor(pooled), Tensor(tiny.sizes(golden))).asnumpy()
    assert tiny.relative_error(vector, golden["cond.vector"]) < 1e-4


def test_vae(golden, vae):
    mean, logvar = (t.asnumpy() for t in VAEEncode(vae)(Tensor(golden["vae.image"])))
    assert tiny.relative_error(mean, golden["vae.mean"]) < 1e-4
    assert tiny.relative_error(logvar, golden["vae.logvar"]) < 1e-4
    scale = tiny.model().scale_factor
    decoded = VAEDecode(vae, scale)(Tensor(golden["vae.mean"] * np.float32(scale))).asnumpy()
    assert tiny.relative_error(decoded, golden["vae.decoded_from_mean"]) < 1e-4


def unet_output(unet, golden, read=None) -> np.ndarray:
    """`read`: base weights, for a UNet that is given the products with some of them."""
    x, timesteps, context, vector = (
        golden[name].astype(np.float32) for name in ("unet.x", "unet.timesteps", "cond.context", "cond.vector")
    )
    if read is not None:
        context = widen(unet.text_products, context, read)
    return unet(*(Tensor(array) for array in (x, timesteps, context, vector))).asnumpy()


def test_unet(golden, plain_unet):
    assert tiny.relative_error(unet_output(plain_unet, golden), golden["unet.out"]) < 1e-4


@pytest.mark.parametrize("text_products", [False, True])
def test_unet_in_float16_is_close(golden, read, text_products):
    """In PyNative mode; that its graph compiles: test_accelerator.py."""
    half = filled(sdxl.build_unet(tiny.model(), ms.float16, tiny.adapters(), text_products), read)
    assert {p.dtype for p in half.get_parameters() if sdxl.is_lora(p.name)} == {ms.float16}
    fresh = {p.name: np.zeros(p.shape, np.float32) for p in half.get_parameters() if sdxl.is_lora(p.name)}
    sdxl.fill([half], lambda name: fresh[name] if name in fresh else read(name))
    with in_mode(ms.PYNATIVE_MODE):
        output = unet_output(half, golden, read if text_products else None)
    assert tiny.relative_error(output, golden["unet.out"]) < 2e-2


def test_lora_for_a_layer_that_is_not_there_is_named():
    with pytest.raises(UserError, match="diffusion_model.input_blocks.4.1.nothing"):
        sdxl.build_unet(tiny.model(), adapters={"model.diffusion_model.input_blocks.4.1.nothing": Adapter(4, 4.0)})


@pytest.mark.parametrize(
    "sampler, name", [("EulerEDMSampler", "euler_edm"), ("HeunEDMSampler", "heun_edm"), ("DPMPP2MSampler", "dpmpp2m")]
)
def test_samplers(golden, read, latent_sampler, vae, sampler, name):
    sizes = tuple(int(n) for n in tiny.sizes(golden)[0])
    settings = SampleSettings(128, 128, sizes, sampler=sampler, steps=10)
    run, text = latent_sampler, text_of(golden)
    if name == "heun_edm":  # as while training
        unet = filled(sdxl.build_unet(tiny.model(), text_products=True), read)
        text = text._replace(context=widen(unet.text_products, text.context[None], read)[0])
        run = LatentSampler(unet, tiny.model())
    latents = run(text, unconditional(text), settings, golden["sample.x_T"], None, name)
    assert tiny.relative_error(latents, golden[f"sample.{name}"]) < 1e-3
    if name == "euler_edm":
        image = VAEDecode(vae, tiny.model().scale_factor)(Tensor(latents)).asnumpy()
        assert tiny.relative_error(image, golden["sample.euler_edm.image"]) < 1e-3


def run_five_updates(golden, read, scale: float, text_products: bool, windows: Sequence[slice]):
    """The golden training run: losses, the first gradient (unscaled) by name, and the trained UNet."""
    unet = filled(sdxl.build_unet(tiny.model(), adapters=tiny.adapters(), text_products=text_products), read)
    assert any("attn2.to_k.weight" in p.name for p in unet.get_parameters()) != text_products
    trainer = Trainer(tiny.config(total_step=5), unet, None, LossScale(scale, dynamic=False))
    context = golden["train.context"]
    mode, rows = ms.get_context("mode"), windows[0].stop - windows[0].start
    text = widen(unet.text_products, context, read) if text_products else context, golden["train.vector"][:, :POOLED]
    trainer.compile(MicroBatch.blank((rows, *golden["train.step0.x0"].shape[1:]), tuple(part[:rows] for part in text)))
    losses, gradient = [], {}
    for step in range(5):
        batches = [tiny.golden_batch(golden, step, text, rows) for rows in windows]
        if step == 0:
            for number, batch in enumerate(batches):
                trainer.accumulate(batch, number == 0)
            by_name = trainer.gradient.by_name(trainer.parameters)
            gradient = {name: value / scale for name, value in by_name.items()}
        update = trainer.update(batches)
        losses.append(update.instance_loss + update.class_loss)
    assert len(trainer.micro_step.compile_cache) == (mode == ms.GRAPH_MODE), "the graph was compiled ahead and only then"
    return losses, gradient, unet


WHOLE = (slice(0, 2),)
SINGLE = (slice(0, 1), slice(1, 2))  # accumulated


@pytest.mark.parametrize(
    "mode, scale, text_products, windows",
    [
        (ms.GRAPH_MODE, 4096.0, True, SINGLE),
        (ms.PYNATIVE_MODE, 1.0, False, WHOLE),
    ],
)
def test_five_updates(golden, read, mode, scale, text_products, windows):
    with in_mode(mode):
        losses, gradient, unet = run_five_updates(golden, read, scale, text_products, windows)
    with in_mode(ms.PYNATIVE_MODE):  # nothing more to compile
        output = unet_output(unet, golden, read if text_products else None)
    assert np.allclose(losses, golden["train.losses"], rtol=1e-5)
    for name, value in gradient.items():
        assert tiny.relative_error(value, golden["train.grad0." + name.removesuffix(".weight")]) < 1e-4, name
    for name, value in lora_state([unet]).items():
        assert tiny.relative_error(value, golden["train.final." + name.removesuffix(".weight")]) < 1e-3, name
    assert tiny.relative_error(output, golden["train.final.unet_out"]) < 1e-4


def test_text_encoder_gradients(golden, tiny_weights):
    """One loss with LoRA in the UNet (its final golden state) and in both text encoders, from tokens in the graph."""
    matrices = {f"x.{k.removeprefix('train.final.')}": v for k, v in golden.items() if k.startswith("train.final.")}
    matrices |= {f"x.{k.removeprefix('train_te.init.')}": v for k, v in golden.items() if k.startswith("train_te.init.")}
    read = tiny.reader(tiny_weights, matrices, "x.")
    config, adapters = tiny.config(text_lora=True), tiny.adapters(text_lora=True)
    unet = filled(sdxl.build_unet(config.model, adapters=adapters), read)
    encoders = filled(sdxl.build_text_encoders(config.model, adapters=adapters), read)
    trainer = Trainer(config, unet, encoders, LossScale(1.0, dynamic=False))
    tokens = tuple(golden[name].astype(np.int32) for name in ("cond.tokens_l", "cond.tokens_g"))
    trainer.accumulate(tiny.golden_batch(golden, 0, tokens), True)
    loss = trainer.gradient.total.asnumpy()[-SUMS]
    assert abs(loss - golden["train_te.loss"]) < 1e-5 * golden["train_te.loss"]
    checked = 0
    for name, value in trainer.gradient.by_name(trainer.parameters).items():
        expected = golden.get("train_te.grad." + name.removesuffix(".weight"))
        if expected is not None:
            assert tiny.relative_error(value, expected) < 1e-4, name
            checked += 1
        else:
            assert name.startswith("model.diffusion_model."), f"{name} has no golden gradient and must not train"
    assert checked == sum(key.startswith("train_te.grad.") for key in golden)
