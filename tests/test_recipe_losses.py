"""Imported recipes in this suite and in PyTorch: the same batches have the same losses, update for update.

The other side is written with diffusers' UNet, transformers' text encoders, PEFT's LoRA, torch's, prodigyopt's and transformers'
optimizers, diffusers' schedules and noise levels, and sd-scripts' formulas for noise, loss and norms, and takes its numbers from
the preset itself. Both sides start from the same weights and LoRA matrices, with LoRA in all three networks. Run as a script
(`PYTHONPATH=.:tests python tests/test_recipe_losses.py PRESET UPDATES`) it does so for a whole preset with the weights in
checkpoints/small_sdxl.safetensors.
"""

import json
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Mapping, Sequence

import mindspore as ms
import numpy as np
import peft
import pytest
import torch
import yaml
from diffusers.optimization import get_scheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from prodigyopt import Prodigy
from transformers.optimization import Adafactor

import diffusers_models
import tiny
from gm.checkpoint.lora_rules import lora_names
from gm.checkpoint.weights import open_base
from gm.config.load import load_config
from gm.config.types import Config, NoiseConfig
from gm.data.dreambooth import INSTANCE, DreamBoothSchedule, SampleOrder
from gm.diffusion.levels import Levels
from gm.models import sdxl
from gm.models.adapters import adapters_of, initial_value
from gm.randomness import TRAINING_NOISE, generator
from gm.recipes.files import read_recipe
from gm.recipes.updates import Hints
from gm.recipes.written import yaml_text
from gm.training.batches import BatchMaker, MicroBatch, TextRows
from gm.training.noise import draw_noise
from gm.training.step import LossScale, Trainer
from small import SMALL as SETTINGS

pytestmark = pytest.mark.xdist_group("small")
CHECKPOINT = tiny.ROOT / "checkpoints" / "small_sdxl.safetensors"
OF_CHECKPOINT = str(tiny.ROOT / "configs" / "training" / "small_dreambooth_lora_cpu.yaml")
PROMPTS = ("a photo of a sks dog", "sks dog, grass", "a dog", "")
SIDE = 8  # pixels of a latent
SEED = 7
SAME = {"network_dim": 32, "network_alpha": 16, "train_batch_size": 2}  # so that one graph is compiled for both
PRESETS = {  # what is set otherwise, so that it acts in a few updates
    "SDXL_-_LoRA_face_dogu_cat_v1.0": {"scale_weight_norms": 0.003, "max_grad_norm": 0.1, **SAME},
    "SDXL_-_LoRA_AI_Now_prodigy_v1.0": {"scale_weight_norms": 0.003, "max_grad_norm": 0.05, **SAME},
}
UPDATES = 5
MADE: list = []  # [what decides the graph, UNet, text encoders, MicroStep] of the last run


@dataclass(frozen=True)
class Recipe:
    """What a preset makes of the small model, in both ways of saying it: this suite's, and the preset's own names."""

    config: Config
    flags: Mapping[str, Any]
    given: Mapping[str, Any]  # of the preset

    @property
    def accumulation(self) -> int:
        return self.flags.get("gradient_accumulation_steps", 1)


def imported(preset: Mapping[str, Any], folder: Path, updates: int, base: str, changes: Sequence[str] = ()) -> Recipe:
    """A preset of kohya_ss for the model of the YAML `base`. `changes`: entries that are set otherwise, KEY=VALUE."""
    (folder / "preset.json").write_text(json.dumps(preset))
    recipe = read_recipe([folder / "preset.json"], Hints(num_photos=10))
    recipe.draft.put("data.total_step", updates)
    recipe.draft.put("model.params.network_config.params.use_recompute", False)  # compiles longer, computes the same
    file = folder / "recipe.yaml"
    file.write_text(yaml_text(recipe.draft, base, file, "a test"), encoding="utf-8")
    return Recipe(load_config(str(file), tuple(changes), training=True), recipe.draft.flags, recipe.settings.values)


class Batches:
    """The micro-batches of a run on four latents, as this suite draws them."""

    def __init__(self, recipe: Recipe):
        self.config, data = recipe.config, recipe.config.data
        self.latent = recipe.config.model.unet.in_channels, SIDE, SIDE
        source = np.random.default_rng(SEED)
        self.latents = (
            source.normal(size=(4, 2, *self.latent)).astype(np.float32) * np.array([1.0, 0.1], np.float32)[:, None, None, None]
        )
        self.latents[:, 1] -= 4  # the logarithm of a small variance
        order = SampleOrder.of(4, 1, True, SEED, INSTANCE)
        self.schedule = DreamBoothSchedule((order,), (), data.per_batch_size, recipe.accumulation, 1)
        samples = {
            (INSTANCE, image, 0): SimpleNamespace(
                crop=image, loss_weight=1.0, mask=None, sizes=np.array([80 + image, 64, image, 0, 64, 64], np.float32)
            )
            for image in range(4)
        }
        self.make = BatchMaker(
            self.schedule,
            samples,
            {INSTANCE: lambda image, position: PROMPTS[image]},
            lambda image: self.latents[image],
            TextRows(None, data.max_tokens),
            SEED,
            Levels.of(self.config.model, self.config.weighting, self.config.loss),
            self.config.noise,
        )

    def window(self, step: int) -> list[MicroBatch]:
        return [self.make(step, micro, 0) for micro in range(self.schedule.accumulation)]

    def plain_noise(self, step: int, micro: int) -> np.ndarray:
        """The noise before anything is added to it."""
        draws = self.schedule.micro_batch(step, micro, 0)
        return draw_noise(draws, SEED, self.latent, 1000, NoiseConfig()).noise

    def offsets(self, step: int, micro: int) -> np.ndarray:
        """The numbers (B, z, 1, 1) that a noise offset is drawn from."""
        found = []
        for draw in self.schedule.micro_batch(step, micro, 0):
            source = generator(SEED, TRAINING_NOISE, draw.kind, draw.position)
            source.integers(0, 1000)
            source.standard_normal((2, *self.latent), np.float32)
            found.append(source.standard_normal((self.latent[0], 1, 1), np.float32))
        return np.stack(found)


def trained_here(recipe: Recipe, batches: Batches, updates: int, weights: Path):
    """The updates, and the first matrices and the last by native name."""
    config, base = recipe.config, open_base(weights)
    adapters = adapters_of(config.model, config.lora)
    key = config.model, adapters, batches.window(0)[0].latent_shape
    if not MADE or MADE[0] != key:
        unet, encoders = (
            sdxl.build_unet(config.model, adapters=adapters),
            sdxl.build_text_encoders(config.model, adapters=adapters),
        )
        MADE[:] = key, unet, encoders, None
    cells = [unet, encoders] = MADE[1:3]
    shapes = {p.name: p.shape for cell in cells for p in cell.get_parameters() if sdxl.is_lora(p.name)}
    first = {name: initial_value(name, shape, SEED) for name, shape in shapes.items()}
    sdxl.fill(cells, lambda name: first[name] if name in first else base.read(name))
    norm = recipe.flags["max_grad_norm"] if recipe.flags.get("clip_grad") else None
    trainer = Trainer(config, unet, encoders, LossScale(1.0, dynamic=False), norm)
    if MADE[3] is None:
        trainer.compile(batches.window(0)[0])
        MADE[3] = trainer.micro_step, [parameter.name for parameter in trainer.parameters]
    trainer.micro_step, names = MADE[3]
    assert names == [parameter.name for parameter in trainer.parameters]
    done = [trainer.update(batches.window(step)) for step in range(updates)]
    return done, first, trainer.matrices()


class Torch:
    """The same networks and matrices in PyTorch."""

    def __init__(self, config: Config, first: Mapping[str, np.ndarray], weights: Path):
        self.config, names = config, lora_names(config.model)
        modules = diffusers_models.models(config.model)
        arrays = diffusers_models.tensors(weights, open_base(weights).shapes)
        self.networks = {
            name: diffusers_models.fill(modules[name], arrays[name]) for name in ("unet", "text_encoder", "text_encoder_2")
        }
        self.pairs: dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter, float]] = {}  # native name -> A, B, scale
        ours = {"unet": "unet", "text_encoder": "text_encoder_1", "text_encoder_2": "text_encoder_2"}
        self.groups: dict[str, list[torch.nn.Parameter]] = {}
        for name, network in self.networks.items():
            network.requires_grad_(False)
            lora = config.lora.get(ours[name])
            if lora is None:
                continue
            inside = dict(network.named_modules())
            native = {module.removesuffix(".lora_A.weight") for module in first if module.endswith(".lora_A.weight")}
            foreign = {one: names.foreign(one, "peft").split(".", 1) for one in native}
            own = {
                one: path if path in inside else path.removeprefix("text_model.")
                for one, (part, path) in foreign.items()
                if part == name
            }
            settings = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=sorted(own.values()))
            peft.inject_adapter_in_model(settings, network)
            layers = dict(network.named_modules())
            for one, path in own.items():
                a, b = layers[path].lora_A["default"].weight, layers[path].lora_B["default"].weight
                with torch.no_grad():
                    a.copy_(torch.from_numpy(first[f"{one}.lora_A.weight"]))
                    b.copy_(torch.from_numpy(first[f"{one}.lora_B.weight"]))
                self.pairs[one] = a, b, lora.alpha / lora.rank
            self.groups[ours[name]] = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def predict(self, noised: torch.Tensor, index: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        tokens = [torch.from_numpy(part.astype(np.int64)) for part in batch.text]
        one = self.networks["text_encoder"](tokens[0], output_hidden_states=True)
        two = self.networks["text_encoder_2"](tokens[1], output_hidden_states=True)
        context = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1)
        added = {"text_embeds": two.text_embeds, "time_ids": torch.from_numpy(batch.sizes)}
        return self.networks["unet"](noised, index, context, added_cond_kwargs=added).sample


def optimizer_of(given: Mapping[str, Any], groups: list) -> torch.optim.Optimizer:
    """By the preset's own words."""
    arguments = {}
    for word in str(given.get("optimizer_args") or "").split():
        name, _, value = word.partition("=")
        arguments[name] = tuple(float(part) for part in value.split(",")) if "," in value else yaml.safe_load(value)
    arguments |= {
        name.partition(".")[2]: yaml.safe_load(str(value))
        if "," not in str(value)
        else tuple(map(float, str(value).split(",")))
        for name, value in given.items()
        if name.startswith("optimizer_args.")
    }
    arguments = {name: float(value) if isinstance(value, str) else value for name, value in arguments.items()}
    kind = {"adamw": torch.optim.AdamW, "adamw8bit": torch.optim.AdamW, "prodigy": Prodigy, "adafactor": Adafactor}
    return kind[str(given["optimizer_type"]).lower()](groups, **arguments)


def scaled_to_norm(pairs: Mapping, largest: float) -> int:
    """sd-scripts' `scale_weight_norms`: how many modules were too long."""
    count = 0
    with torch.no_grad():
        for a, b, scale in pairs.values():
            norm = (scale * b @ a).norm().clamp(min=largest / 2)
            ratio = norm.clamp(max=largest) / norm
            if ratio != 1:
                count += 1
                a *= ratio.sqrt()
                b *= ratio.sqrt()
    return count


def trained_there(
    recipe: Recipe, batches: Batches, first: Mapping[str, np.ndarray], updates: int, weights: Path, trains: bool = True
):
    """The same in PyTorch, from the preset's settings. `trains`: False leaves the matrices as they are."""
    given, torch_side = recipe.given, Torch(recipe.config, first, weights)
    rates = rates_of(recipe)
    groups = [{"params": parameters, "lr": rates[name]} for name, parameters in torch_side.groups.items()]
    optimizer = optimizer_of(given, groups)
    warmup = given.get("lr_warmup_steps") or 0
    schedule = get_scheduler(
        str(given["lr_scheduler"]), optimizer, num_warmup_steps=int(float(warmup)), num_training_steps=updates
    )
    levels = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    snr_of = levels.alphas_cumprod / (1 - levels.alphas_cumprod)
    parameters = [parameter for group in groups for parameter in group["params"]]
    offset, gamma = float(given.get("noise_offset") or 0), float(given.get("min_snr_gamma") or 0)
    losses, norms, too_long = [], [], 0
    for step in range(updates):
        optimizer.zero_grad()
        window, total = batches.window(step), 0.0
        for micro, batch in enumerate(window):
            index = torch.from_numpy(batch.timestep)
            mean, logvar = torch.from_numpy(batch.mean), torch.from_numpy(batch.logvar)
            x0 = recipe.config.model.scale_factor * (mean + (0.5 * logvar).exp() * torch.from_numpy(batch.posterior_noise))
            noise = torch.from_numpy(batches.plain_noise(step, micro))
            if offset:
                noise = noise + offset * torch.from_numpy(batches.offsets(step, micro))
            output = torch_side.predict(levels.add_noise(x0, noise, index), index, batch)
            loss = torch.nn.functional.mse_loss(output, noise, reduction="none").mean((1, 2, 3))
            if gamma:
                snr = snr_of[index]
                loss = loss * (torch.minimum(snr, torch.full_like(snr, gamma)) / snr)
            loss = loss.mean() / len(window)
            loss.backward()
            total += float(loss.detach())
        losses.append(total)
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, float(given.get("max_grad_norm") or 1.0))))
        if not trains:
            continue
        optimizer.step()
        schedule.step()
        if given.get("scale_weight_norms"):
            too_long += scaled_to_norm(torch_side.pairs, float(given["scale_weight_norms"]))
    return losses, norms, torch_side.pairs, too_long


def rates_of(recipe: Recipe) -> dict[str, float]:
    """Of the networks, by the preset's words: Prodigy takes the UNet's for all."""
    given = recipe.given
    usual = float(given.get("learning_rate") or 0)
    unet, text = float(given.get("unet_lr") or usual), float(given.get("text_encoder_lr") or usual)
    if str(given["optimizer_type"]).lower() == "prodigy":
        text = unet
    return {"unet": unet, "text_encoder_1": text, "text_encoder_2": text}


def largest_difference(here: Sequence[float], there: Sequence[float]) -> float:
    """Of numbers, relative to each."""
    return max(abs(one - other) / abs(other) for one, other in zip(here, there))


def moved(first: Mapping[str, np.ndarray], last: Mapping[str, np.ndarray], pairs: Mapping) -> tuple[float, float]:
    """How far the matrices have moved in PyTorch, and how far those here are from them."""
    difference = way = 0.0
    for name, (a, b, _) in pairs.items():
        for part, there in (("lora_A", a), ("lora_B", b)):
            key, there = f"{name}.{part}.weight", there.detach().numpy()
            difference += float(np.square(last[key] - there).sum())
            way += float(np.square(there - first[key]).sum())
    return math.sqrt(way), math.sqrt(difference)


@pytest.mark.parametrize("name", PRESETS)
def test_losses_of_a_preset_are_pytorchs(name, shared, small, tmp_path):
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)
    preset = json.loads((shared / f"recipes/kohya_ss__{name}.json").read_text()) | PRESETS[name]
    recipe = imported(preset, tmp_path, UPDATES, str(tiny.TRAINING), SETTINGS[1::2])
    assert list(recipe.config.lora) == ["unet", "text_encoder_1", "text_encoder_2"]
    batches = Batches(recipe)
    done, first, last = trained_here(recipe, batches, UPDATES, small.weights)
    losses, norms, pairs, too_long = trained_there(recipe, batches, first, UPDATES, small.weights)
    assert largest_difference([one.loss for one in done], losses) < 1e-4
    assert largest_difference([one.grad_norm for one in done], norms) < 1e-3
    way, difference = moved(first, last, pairs)
    assert difference < 1e-2 * way
    assert too_long == sum(one.more["norms_scaled"] for one in done) > 0  # it acts
    assert max(norms) > recipe.flags["max_grad_norm"]  # so does clipping
    untrained = trained_there(recipe, batches, first, UPDATES, small.weights, trains=False)[0]
    assert largest_difference(untrained[1:], losses[1:]) > 1e-3  # and so do the updates


def by_hand(path: Path, updates: int) -> None:
    """A whole preset, as it is, with trained weights."""
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)
    recipe = imported(json.loads(path.read_text()), Path(tempfile.mkdtemp()), updates, OF_CHECKPOINT)
    batches = Batches(recipe)
    done, first, last = trained_here(recipe, batches, updates, CHECKPOINT)
    losses, norms, pairs, too_long = trained_there(recipe, batches, first, updates, CHECKPOINT)
    untrained = trained_there(recipe, batches, first, updates, CHECKPOINT, trains=False)[0]
    way, difference = moved(first, last, pairs)
    for some in range(10, updates, 10):
        print(f"losses within {largest_difference([one.loss for one in done[:some]], losses[:some]):.1e}, of {some} updates")
    print(f"losses within {largest_difference([one.loss for one in done], losses):.1e}, of {updates} updates")
    print(
        f"gradient norms within {largest_difference([one.grad_norm for one in done], norms):.1e}, the largest {max(norms):.3f}"
    )
    print(f"matrices moved by {way:.4f}, within {difference / way:.1e} of that; {too_long} modules were too long")
    print(f"without the updates losses would differ by up to {largest_difference(untrained, losses):.1e}")


if __name__ == "__main__":
    by_hand(Path(sys.argv[1]), int(sys.argv[2]))
