"""What a LoRA file says of how it was trained: sd-scripts' names (`ss_...`, its train_network.py), which other tools show, and
the whole resolved YAML as `recipe_yaml`, which says the rest.

One line of METADATA is one name. A value is None where the name does not apply, and then it is left out.
"""

import json
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Iterable, Mapping, Optional, Sequence

from omegaconf import OmegaConf

from gm.checkpoint.lora_files import RECIPE
from gm.checkpoint.weights import split_weight_argument
from gm.config.table import TARGETS
from gm.data.dreambooth import DreamBoothSchedule, SampleOrder
from gm.data.images import count_images
from gm.diffusion.weighting import parameters
from gm.optimizers.rates import warmup
from gm.runtime import Runtime
from gm.training.inputs import Inputs


@dataclass(frozen=True)
class Facts:
    """A run, after `step` updates."""

    inputs: Inputs
    machine: Runtime
    schedule: DreamBoothSchedule
    step: int = 0
    started: float = field(default_factory=time.time)  # seconds since 1970

    @property
    def batch(self) -> int:
        """Instance samples of an update."""
        return self.schedule.per_batch_size * self.schedule.accumulation * self.schedule.ranks

    def epochs(self, steps: int) -> int:
        """Begun by so many updates: an epoch holds every photo with all its repeats."""
        return math.ceil(steps * self.batch / _samples(self.schedule.instances))


def metadata(facts: Facts, step: int) -> dict[str, str]:
    """What a LoRA file of a run says after `step` updates."""
    facts = replace(facts, step=step)
    values = {name: value(facts) for name, value in METADATA.items()}
    return {name: str(value) for name, value in values.items() if value is not None}


def _samples(orders: Sequence[SampleOrder]) -> int:
    """In an epoch."""
    return sum(len(order) for order in orders)


def _optimizer(facts: Facts) -> str:
    """Its name with all its settings, those that the YAML leaves out as well: AdamW(beta1=0.9,...)."""
    given = OmegaConf.create(facts.inputs.config.raw).optim.optimizer_config
    params = {key: entry.default for key, entry in TARGETS[given.target].items()} | dict(given.get("params") or {})
    return f"{given.target.rpartition('.')[2]}({','.join(f'{key}={value}' for key, value in params.items())})"


def _rate(facts: Facts, network: str) -> Optional[float]:
    """The rate of a network's LoRA; None where it has none."""
    config = facts.inputs.config
    return config.optim.rates.get(network, config.optim.base_learning_rate) if network in config.lora else None


def _text_encoder_rate(facts: Facts) -> Optional[object]:
    """That of both text encoders, or a list of two."""
    rates = [_rate(facts, network) for network in ("text_encoder_1", "text_encoder_2")]
    return rates[0] if rates[0] == rates[1] else rates


def _network_args(facts: Facts) -> Optional[str]:
    """What sd-scripts and LyCORIS call the rest of the network's settings."""
    lora, optim = facts.inputs.config.lora["unet"], facts.inputs.config.optim
    given = {
        "conv_dim": lora.conv_rank if lora.targets == "all" else None,
        "conv_alpha": lora.conv_alpha if lora.targets == "all" else None,
        "rank_dropout": lora.rank_dropout or None,
        "module_dropout": lora.module_dropout or None,
        "loraplus_lr_ratio": _unless(optim.lora_plus_ratio, 1.0),
        "dora_wd": "True" if lora.kind == "dora" else None,
        "rs_lora": "True" if lora.rslora else None,
    }
    said = {name: str(value) for name, value in given.items() if value is not None}
    return json.dumps(said) if said else None


def _unless(value: object, usual: object) -> Optional[object]:
    return None if value == usual else value


def _scheduler(facts: Facts) -> str:
    config = facts.inputs.config
    rises = warmup(config.optim, config.data.total_step) > 0
    return "constant_with_warmup" if config.optim.schedule == "constant" and rises else config.optim.schedule


def _min_snr_gamma(facts: Facts) -> Optional[float]:
    weighting = facts.inputs.config.weighting
    of_it = {**parameters(weighting.name), **weighting.params}
    return of_it["gamma"] if weighting.name == "MinSNRWeighting" else None


def _buckets(facts: Facts) -> Optional[str]:
    """The sizes that photos are cut to, (width, height), with the samples of an epoch in each; None when there is one."""
    shapes = facts.inputs.buckets.shapes
    counts = [_samples(facts.schedule.orders(bucket)) for bucket in range(len(shapes))]
    buckets = {i: {"resolution": size[::-1], "count": count} for i, (size, count) in enumerate(zip(shapes, counts))}
    return json.dumps({"buckets": buckets}) if len(buckets) > 1 else None


def _folders(folders: Iterable[tuple[Path, int, int]]) -> str:
    """The names of folders with the repeats and the number of their photos."""
    return json.dumps({path.resolve().name: {"n_repeats": repeats, "img_count": count} for path, repeats, count in folders})


METADATA: Mapping[str, Callable[[Facts], object]] = {
    # network
    "ss_network_module": lambda f: "networks.lora",
    "ss_network_dim": lambda f: f.inputs.config.lora["unet"].rank,
    "ss_network_alpha": lambda f: f.inputs.config.lora["unet"].alpha,
    "ss_network_args": _network_args,
    "ss_network_dropout": lambda f: f.inputs.config.lora["unet"].neuron_dropout or None,  # that of sd-scripts
    "ss_scale_weight_norms": lambda f: f.inputs.config.optim.scale_weight_norms,
    "ss_base_model_version": lambda f: "sdxl_base_v1-0",
    "ss_sd_model_name": lambda f: Path(split_weight_argument(f.inputs.options.weight)[0]).name,
    "ss_vae_name": lambda f: Path(f.inputs.options.vae).name if f.inputs.options.vae else None,
    # optimizer
    "ss_optimizer": _optimizer,
    "ss_learning_rate": lambda f: f.inputs.config.optim.base_learning_rate,
    "ss_unet_lr": lambda f: _rate(f, "unet"),
    "ss_text_encoder_lr": _text_encoder_rate,
    "ss_lr_scheduler": _scheduler,
    "ss_lr_warmup_steps": lambda f: warmup(f.inputs.config.optim, f.inputs.config.data.total_step),
    "ss_max_grad_norm": lambda f: f.inputs.options.max_grad_norm if f.inputs.options.clip_grad else 0.0,  # 0: not clipped
    # updates
    "ss_max_train_steps": lambda f: f.inputs.config.data.total_step,
    "ss_steps": lambda f: f.step,
    "ss_num_epochs": lambda f: f.epochs(f.inputs.config.data.total_step),
    "ss_epoch": lambda f: f.epochs(f.step),
    "ss_num_batches_per_epoch": lambda f: math.ceil(_samples(f.schedule.instances) / f.schedule.per_batch_size),
    "ss_batch_size_per_device": lambda f: f.schedule.per_batch_size,
    "ss_total_batch_size": lambda f: f.batch,
    "ss_gradient_accumulation_steps": lambda f: f.schedule.accumulation,
    "ss_gradient_checkpointing": lambda f: f.inputs.config.model.unet.use_recompute,
    "ss_mixed_precision": lambda f: "fp16" if f.machine.amp_level == "O2" else "no",
    "ss_seed": lambda f: f.inputs.options.seed,
    "ss_training_started_at": lambda f: f.started,
    "ss_training_finished_at": lambda f: time.time(),
    # loss
    "ss_prior_loss_weight": lambda f: f.inputs.options.prior_loss_weight,
    "ss_min_snr_gamma": _min_snr_gamma,
    "ss_debiased_estimation": lambda f: f.inputs.config.weighting.name == "DebiasedWeighting" or None,
    "ss_loss_type": lambda f: f.inputs.config.loss.loss_type,
    "ss_huber_schedule": lambda f: f.inputs.config.loss.huber_schedule if f.inputs.config.loss.loss_type != "l2" else None,
    "ss_huber_c": lambda f: f.inputs.config.loss.huber_c if f.inputs.config.loss.loss_type != "l2" else None,
    "ss_multires_noise_iterations": lambda f: f.inputs.config.noise.multires_noise_iterations or None,
    "ss_multires_noise_discount": lambda f: (
        f.inputs.config.noise.multires_noise_discount if f.inputs.config.noise.multires_noise_iterations else None
    ),
    "ss_ip_noise_gamma": lambda f: f.inputs.config.noise.input_perturbation or None,
    "ss_min_timestep": lambda f: f.inputs.config.noise.min_timestep or None,
    "ss_max_timestep": lambda f: _unless(f.inputs.config.noise.max_timestep, f.inputs.config.model.num_timesteps),
    "ss_masked_loss": lambda f: f.inputs.config.data.masks is not None or None,
    "ss_noise_offset": lambda f: f.inputs.config.noise.offset_noise_level or None,
    # photos and their texts
    "ss_num_train_images": lambda f: _samples(f.schedule.instances),  # each as often as it is repeated, as in sd-scripts
    "ss_num_reg_images": lambda f: _samples(f.schedule.classes),
    "ss_dataset_dirs": lambda f: _folders((s.folder, s.repeats, len(s.photos)) for s in f.inputs.subjects),
    "ss_reg_dataset_dirs": lambda f: _folders(
        (c.folder, c.repeats, len(count_images(c.folder))) for c in f.inputs.class_folders
    ),
    "ss_resolution": lambda f: (f.inputs.config.data.target_size, f.inputs.config.data.target_size),  # (width, height)
    "ss_random_crop": lambda f: f.inputs.config.data.crop == "random",
    "ss_enable_bucket": lambda f: _buckets(f) is not None,
    "ss_bucket_info": _buckets,
    "ss_cache_latents": lambda f: f.inputs.options.cache_latents,
    "ss_shuffle_caption": lambda f: f.inputs.config.data.captions.shuffle,
    "ss_keep_tokens": lambda f: f.inputs.config.data.captions.keep_tokens,
    "ss_keep_tokens_separator": lambda f: f.inputs.config.data.captions.keep_tokens_separator,
    "ss_caption_dropout_rate": lambda f: f.inputs.config.data.captions.dropout,
    "ss_caption_tag_dropout_rate": lambda f: f.inputs.config.data.captions.tag_dropout,
    "ss_caption_prefix": lambda f: f.inputs.config.data.captions.prefix,
    "ss_caption_suffix": lambda f: f.inputs.config.data.captions.suffix,
    "ss_max_bucket_reso": lambda f: f.inputs.config.data.buckets.largest if f.inputs.config.data.buckets else None,
    "ss_min_bucket_reso": lambda f: f.inputs.config.data.buckets.smallest if f.inputs.config.data.buckets else None,
    "ss_bucket_no_upscale": lambda f: not f.inputs.config.data.buckets.upscale if f.inputs.config.data.buckets else None,
    "ss_max_token_length": lambda f: f.inputs.config.data.max_tokens,
    # all of it
    RECIPE: lambda f: f.inputs.config.raw,
}
