"""Pretraining from nothing: its parts by themselves, and the command, stopped and resumed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from PIL import Image

from gm import runtime
from gm.config.load import load_config
from gm.errors import UserError

CONFIG = "configs/inference/small_sdxl.yaml"
pytestmark = pytest.mark.xdist_group("pretraining")


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(scope="module")
def model(root):
    return load_config(str(root / CONFIG), [], training=False).model


def filled(cell, seed=0):
    """The network with what pretraining starts from, the zero layers with small numbers as well."""
    from gm.models import sdxl
    from tools.toy.initial import initial_weight

    shapes = {parameter.name: tuple(parameter.shape) for parameter in cell.get_parameters()}
    noise = np.random.default_rng(seed)
    sdxl.fill([cell], lambda n: initial_weight(n, shapes[n], seed) + 0.02 * noise.standard_normal(shapes[n]))
    return cell


def test_initial_weights():
    from tools.toy.initial import initial_weight

    assert not initial_weight("model.diffusion_model.out.2.weight", (4, 64, 3, 3), 0).any()
    assert not initial_weight("model.diffusion_model.middle_block.0.out_layers.3.weight", (8, 8, 3, 3), 0).any()
    assert not initial_weight("first_stage_model.decoder.up.0.block.1.conv2.weight", (8, 8, 3, 3), 0).any()
    assert initial_weight("first_stage_model.decoder.up.0.block.1.conv1.weight", (8, 8, 3, 3), 0).any()
    assert (initial_weight("model.diffusion_model.out.0.gamma", (64,), 0) == 1).all()
    kernel = initial_weight("model.diffusion_model.input_blocks.0.0.weight", (64, 4, 3, 3), 0)
    assert abs(np.abs(kernel).max() - 1 / 6) < 0.01  # inputs^-0.5
    again = initial_weight("model.diffusion_model.input_blocks.0.0.weight", (64, 4, 3, 3), 1)
    assert not np.array_equal(kernel, again)


def test_normalised_first_stage_draws_the_same_and_has_unit_latents(model):
    from mindspore import Tensor

    from gm.models import sdxl
    from gm.models.vae import VAEDecode, VAEEncode
    from tools.toy.first_stage import normalised

    vae = filled(sdxl.build_vae(model))
    images = Tensor(np.random.default_rng(0).uniform(-1, 1, (6, 3, 32, 32)).astype(np.float32))
    mean, logvar = (part.asnumpy() for part in VAEEncode(vae)(images))
    before = VAEDecode(vae, 1.0)(Tensor(mean)).asnumpy()
    weights = {parameter.name: parameter.asnumpy() for parameter in vae.get_parameters()}
    sdxl.fill([vae], normalised(weights, mean, model.scale_factor).__getitem__)
    new_mean, new_logvar = (part.asnumpy() for part in VAEEncode(vae)(images))
    latent = model.scale_factor * new_mean
    assert np.abs(latent.mean((0, 2, 3))).max() < 1e-3
    assert np.abs(latent.std((0, 2, 3)) - 1).max() < 1e-3
    assert np.abs(VAEDecode(vae, model.scale_factor)(Tensor(latent)).asnumpy() - before).max() < 1e-3
    spread = np.exp(0.5 * (new_logvar - logvar)) * mean.std((0, 2, 3)).reshape(1, -1, 1, 1) * model.scale_factor
    assert np.abs(spread - 1).max() < 1e-3  # the posterior has grown by as much as the mean


def test_learned_words_are_the_table_that_is_written(model):
    """Also: a caption left out is zeros, and only the words in use get a gradient."""
    from mindspore import Tensor

    from gm.models import sdxl
    from gm.models.conditioner import tokenize
    from tools.toy.text_to_image import OptionalCaption, learn_words, train_all

    tokens = tokenize(["a photo of a dog", "a sks cat"])
    encoders = filled(sdxl.build_text_encoders(model))
    learned = learn_words(encoders, sorted(set(tokens[0][0])))
    train_all(encoders, encoders, [])
    names = [parameter.name for parameter in encoders.trainable_params()]
    assert not [name for name in names if name.endswith(("gamma", "beta", "token_embedding.embedding_table"))]
    assert learned[0].change in encoders.trainable_params() and len(learned[0].words) == 6
    change = np.random.default_rng(1).standard_normal(learned[0].change.shape).astype(np.float32)
    for words in learned:
        words.change.set_data(Tensor(change))
    optional = OptionalCaption(encoders)
    context, pooled = (part.asnumpy() for part in optional(*map(Tensor, tokens)))

    plain = sdxl.build_text_encoders(model)
    weights = {parameter.name: parameter.asnumpy() for parameter in encoders.get_parameters()}
    for words in learned:
        weights[words.embedding_table.name] = words.whole_table(change)
    sdxl.fill([plain], weights.__getitem__)
    expected = [part.asnumpy() for part in plain(*map(Tensor, tokens))]
    assert np.abs(context - expected[0]).max() < 1e-5 and np.abs(pooled - expected[1]).max() < 1e-5

    tokens[0][1] = tokens[1][1] = 0
    left_out, pooled_out = (part.asnumpy() for part in optional(*map(Tensor, tokens)))
    assert not left_out[1].any() and not pooled_out[1].any()
    assert np.abs(left_out[0] - context[0]).max() < 1e-6

    class Sum(nn.Cell):
        def construct(self, tokens_l, tokens_g):
            return optional(tokens_l, tokens_g)[0].sum()

    gradient = ms.grad(Sum(auto_prefix=False), None, ms.ParameterTuple([learned[0].change]))
    rows = np.abs(gradient(*map(Tensor, tokenize(["dog dog", "dog"])))[0].asnumpy()).sum(1)
    known = [int(i) for i in learned[0].words]
    used = set(tokenize(["dog"])[0][0].tolist())
    assert {known[row - 1] for row in np.flatnonzero(rows)} == used


def test_captioned_batches(model):
    from gm.diffusion.schedule import train_sigmas
    from gm.models.conditioner import tokenize
    from tools.toy.text_to_image import NO_CAPTION, RARE_WORD, CaptionedBatches, loss_weights

    posteriors = np.random.default_rng(0).standard_normal((50, 2, 4, 4, 4)).astype(np.float16)
    caption = lambda picture, random: (f"a photo of a {('dog', 'cat')[picture % 2]}", ("dog", "cat")[picture % 2])  # noqa: E731
    batches = CaptionedBatches(posteriors, caption, 32, 25, 0, 1000)
    drawn = [batches(step, 0, 0) for step in range(40)]
    again = batches(7, 0, 0)
    assert all(
        np.array_equal(a, b)
        for a, b in zip((again.mean, again.noise, *again.text), (drawn[7].mean, drawn[7].noise, *drawn[7].text))
    )
    weights = loss_weights(train_sigmas(1000))
    assert np.allclose(drawn[0].weight, weights[drawn[0].timestep] / len(drawn[0].weight))
    epoch = np.concatenate([drawn[0].mean, drawn[1].mean])  # every picture once
    assert np.array_equal(np.sort(epoch[:, 0, 0, 0]), np.sort(posteriors[:, 0, 0, 0, 0].astype(np.float32)))
    plain = {word: tokenize([f"a photo of a {word}"])[0][0] for word in ("dog", "cat")}
    kinds = {"none": 0, "plain": 0, "rare": 0}
    for batch in drawn:
        for mean, row, padded in zip(batch.mean, batch.text[0], batch.text[1]):
            (picture,) = np.flatnonzero((posteriors[:, 0].astype(np.float32) == mean).all((1, 2, 3)))
            usual = plain[("dog", "cat")[picture % 2]]
            if not row.any():
                assert not padded.any()
                kinds["none"] += 1
            elif np.array_equal(row, usual):
                kinds["plain"] += 1
            else:  # one token more, right before the noun
                place = 5
                assert np.array_equal(np.delete(row, place)[:10], usual[:10]) and row[place] == padded[place] >= 5000
                kinds["rare"] += 1
    assert abs(kinds["none"] / 1000 - NO_CAPTION) < 0.04 and abs(kinds["rare"] / 1000 - RARE_WORD) < 0.04


def test_what_the_first_stage_is_trained_on():
    """Whole pictures of anybody but the subject's like, some of them put together from two."""
    from tools.toy import training_pictures
    from tools.toy.drawing import draw
    from tools.toy.scenes import even_look, random_scene

    parts = []
    for seed in range(40):
        picture, random = training_pictures.varied(64, np.random.default_rng(seed)), np.random.default_rng(seed)
        first = np.asarray(draw(random_scene(random, even_look(random)), 64))  # the same scene
        parts.append((picture == first).all(-1).mean())
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert 0.5 < np.mean(np.array(parts) == 1) < 0.95 and min(parts) > 0.05


def test_weights_of_the_loss():
    """1 in the mean; small noise counts little; the error of EDM's network counts the same at every level between."""
    from gm.diffusion.schedule import train_sigmas
    from tools.toy.text_to_image import loss_weights

    sigmas = train_sigmas(1000)
    weights = loss_weights(sigmas)
    assert np.isclose(weights.mean(), 1)
    at = lambda sigma: float(np.interp(sigma, sigmas, weights))  # noqa: E731
    assert at(0.05) < 0.05 * at(1.0)
    assert 0.8 < at(2.0) / 5 / (at(1.0) / 2) < 1.2
    assert at(14.0) / (14.0**2 + 1) < 0.2 * at(1.0) / 2


SMALLER = """
base: {base}
model:
  params:
    network_config:
      params: {{channel_mult: [1, 2], attention_resolutions: [2], num_res_blocks: 1, transformer_depth: {depth}}}
    conditioner_config:
      params:
        emb_models: {{0: {{params: {{layers: 2, layer_idx: 1}}}}, 1: {{params: {{layers: 2}}}}}}
"""


def smaller(path: Path, depth: list[int]) -> Path:
    """A YAML of a model whose graphs are compiled soon."""
    path.write_text(SMALLER.format(base=Path(CONFIG).resolve(), depth=depth))
    return path


def test_the_command_goes_on_where_it_was_stopped(root, tmp_path, monkeypatch):
    from gm.checkpoint.weights import open_base
    from gm.models.sdxl import expected_shapes
    from gm.training import loop
    from gm.training.step import Update
    from tools import pretrain
    from tools.toy import pretraining

    monkeypatch.chdir(root)
    monkeypatch.setattr(pretraining, "PROMPTS", pretraining.PROMPTS[:1])  # what is drawn on the way takes time
    config = smaller(tmp_path / "smaller.yaml", [1, 1])
    unbroken, stopped = tmp_path / "unbroken.safetensors", tmp_path / "stopped.safetensors"

    def run(weight: Path, *more):
        words = ("--config", config, "--pictures", 24, "--size", 32, "--batch", 2, "--first_stage_steps", 4, "--steps", 4)
        words += ("--save_interval", 2, "--infer_interval", 100, "--output", weight.with_suffix(""), "--weight", weight)
        pretrain.main([str(word) for word in (*words, *more)])

    plot = loop.plot_losses

    def keep_step_2(metrics, target):
        if json.loads(metrics.read_text().splitlines()[-1])["step"] == 2:
            assert not unbroken.exists()
            shutil.copytree(metrics.parent, stopped.with_suffix(""))  # what a run that is killed here leaves
        return plot(metrics, target)

    no_pictures = lambda *_: lambda *_: [np.zeros((32, 32, 3), np.uint8)] * 6  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(loop, "plot_losses", keep_step_2)
        patch.setattr(pretraining, "PictureSampler", no_pictures)
        run(unbroken)
    monkeypatch.setattr(runtime, "CPU", replace(runtime.CPU, mode=runtime.PYNATIVE))  # nothing is compiled once more
    run(stopped)
    assert np.asarray(Image.open(stopped.with_suffix("") / "progress" / "step_4.png")).std() > 5
    monkeypatch.setattr(pretraining, "PictureSampler", no_pictures)
    for folder in (stopped.with_suffix(""), unbroken.with_suffix("")):
        assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
        assert (folder / "progress" / "step_4.png").exists() and (folder / "loss.png").exists()
        assert (folder / "first_stage" / "step_4.png").exists() and (folder / "curves.png").exists()
    expected, _ = expected_shapes(load_config(str(config), [], training=False).model)
    bases = [open_base(path) for path in (stopped, unbroken)]
    for base in bases:
        base.check(expected)
    for name in expected:
        one, other = (base.read(name).astype(np.float32) for base in bases)
        assert np.abs(one - other).max() <= 2e-3 * max(np.abs(one).max(), 1e-3), name

    with pytest.raises(UserError, match=r"^--init .*unbroken\.safetensors does not fit the model of --config"):
        run(tmp_path / "no.safetensors", "--config", smaller(tmp_path / "deeper.yaml", [1, 2]), "--init", unbroken)

    def keep(trainer, *_):
        trainer.step += 1
        return 0.0

    def learn_nothing(trainer, _):
        trainer.average, trainer.step = trainer.optimizer.p.asnumpy(), trainer.step + 1
        return Update(loss=1.0, instance_loss=1.0, class_loss=None, grad_norm=0.0, lr=0.0, loss_scale=1.0, skipped=False)

    monkeypatch.setattr(pretraining.AveragingTrainer, "update", learn_nothing)  # as at this rate
    monkeypatch.setattr(pretraining.FirstStageTrainer, "update", keep)
    monkeypatch.setattr(pretraining.AveragingTrainer, "compile", lambda *_: None)
    rates = ("--first_stage_steps", 1, "--steps", 1, "--learning_rate", 1e-12)
    run(tmp_path / "more.safetensors", "--init", unbroken, *rates, "--seed", 1)  # random weights would be others
    more = open_base(tmp_path / "more.safetensors")
    for name in expected:  # nothing was learned, so all is as given; an untrained VAE's latents are hard to normalise again
        if "quant_conv" in name:
            continue
        one, other = (base.read(name).astype(np.float32) for base in (bases[1], more))
        assert np.abs(one - other).max() <= 5e-3 * max(np.abs(one).max(), 1e-3), name
