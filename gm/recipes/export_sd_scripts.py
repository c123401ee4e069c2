"""A run of this suite as arguments of sd-scripts' sdxl_train_network.py and its dataset configuration.

What sd-scripts has no counterpart for is a remark. The facts are those of its train_network.py, library/train_util.py, library/config_util.py and networks/lora.py, and of LyCORIS' presets.
"""

import math
from os.path import abspath
from pathlib import Path
from typing import Mapping, Sequence

from gm.config.types import Config, LoraConfig, ModelConfig, OptimConfig
from gm.data.concepts import ClassFolder, Subject
from gm.options.train import TrainOptions
from gm.recipes.export_files import Entries, Exported
from gm.recipes.export_words import BUCKETS, EARLIER_ADAM, INTERPOLATION, LOSSES, OF_OPTIONS, SCHEDULES, SDXL_SIDE

PLAIN, LYCORIS = "networks.lora", "lycoris.kohya"
_LARGEST_SEED = 2**32  # of numpy's, which sd-scripts sets


def export_sd_scripts(
    config: Config, options: TrainOptions, subjects: Sequence[Subject], classes: Sequence[ClassFolder], ranks: int = 1
) -> Exported:
    """The run with this YAML and these flags, on so many devices."""
    assert config.optim is not None and config.data is not None
    out = Exported()
    out.training["model"] = _model(config, options, out)
    out.training["network"] = _network(config, out)
    out.training["optimizer"] = _optimizer(config, options, out)
    out.training["schedule"] = _schedule(config.optim, config.data.total_step, out)
    out.training["loss"] = _loss(config, options, classes, out)
    out.training["machine"] = _machine(config, options, out, ranks)
    out.training["saving"] = _saving(options, out)
    out.dataset = _dataset(config, options, subjects, classes, out)
    return out


def _model(config: Config, options: TrainOptions, out: Exported) -> Entries:
    if config.model != ModelConfig(
        config.model.unet,
        config.model.text_encoders,
        config.model.vae,
        prediction=config.model.prediction,
        zero_terminal_snr=config.model.zero_terminal_snr,
    ) or (config.model.unet.model_channels, config.model.unet.transformer_depth) != (320, (1, 2, 10)):
        out.remarks.append("the model is not SDXL base 1.0, the only one that sdxl_train_network.py trains")
    base, *further = options.weight.split(",")
    entries: Entries = {
        "pretrained_model_name_or_path": abspath(base),
        "vae": options.vae and abspath(options.vae),
        "no_half_vae": True,
    }
    if Path(base).suffix == ".ckpt":
        out.remarks.append(f"{base} is MindSpore's file: give the .safetensors that it was made from")
    if further:
        entries["network_weights"] = abspath(further[0])
        if len(further) > 1 or Path(further[0]).suffix != ".safetensors":
            out.remarks.append(
                f"training goes on from {', '.join(further)}: sd-scripts reads one .safetensors in its own layout, "
                "tools/export_lora.py makes it"
            )
    if config.model.prediction == "v":
        entries["v_parameterization"] = True
        entries["zero_terminal_snr"] = config.model.zero_terminal_snr or None
    return entries


def _network(config: Config, out: Exported) -> Entries:
    unet, optim = config.lora["unet"], config.optim
    assert optim is not None
    texts = {name: lora for name, lora in config.lora.items() if name != "unet"}
    targets = unet.targets if isinstance(unet.targets, str) else "linear"
    lycoris = targets == "attention" or unet.kind == "dora"
    arguments: list[str] = []
    if lycoris:
        out.needs.append("attention alone and DoRA are LyCORIS': pip install lycoris-lora")
        presets = {"attention": "attn-only", "linear": "attn-mlp", "all": "full"}
        arguments += ["algo=lora", f"preset={presets[targets]}"] + (
            ["dora_wd=True", "wd_on_output=True"] if unet.kind == "dora" else []
        )
    root, conv_root = 1.0, 1.0
    conv_rank, conv_alpha = unet.conv_rank or unet.rank, unet.conv_alpha or unet.alpha
    if unet.rslora:  # alpha sqrt(rank) / rank is alpha / sqrt(rank)
        root, conv_root = math.sqrt(unet.rank), math.sqrt(conv_rank)
    if targets == "all":
        arguments += [f"conv_dim={conv_rank}", f"conv_alpha={conv_alpha * conv_root!r}"]
    for name in ("rank_dropout", "module_dropout"):
        if getattr(unet, name):
            arguments.append(f"{name}={getattr(unet, name)!r}")
    if optim.lora_plus_ratio != 1:
        arguments.append(f"loraplus_lr_ratio={optim.lora_plus_ratio!r}")
    _network_remarks(unet, texts, targets, out)
    return {
        "network_module": LYCORIS if lycoris else PLAIN,
        "network_dim": unet.rank,
        "network_alpha": unet.alpha * root,
        "network_dropout": unet.neuron_dropout or None,
        "network_args": arguments or None,
        "network_train_unet_only": True if not texts else None,
        "network_train_text_encoder_only": True if optim.rates.get("unet") == 0 else None,
        "scale_weight_norms": optim.scale_weight_norms,
    }


def _network_remarks(unet: LoraConfig, texts: Mapping[str, LoraConfig], targets: str, out: Exported) -> None:
    if not isinstance(unet.targets, str):
        out.remarks.append(f"lora_targets {', '.join(unet.targets)}: all linear layers have a LoRA there")
    if unet.parts:
        out.remarks.append("lora_parts: one rank and one alpha for all modules there")
    if unet.dropout:
        out.remarks.append(f"lora_dropout {unet.dropout:g}, of the inputs of A: sd-scripts drops out behind A alone")
    if unet.rslora:
        out.remarks.append("lora_rslora: network_alpha is alpha x sqrt(rank) instead, which is the same")
    if targets != "all" and (unet.conv_rank or unet.conv_alpha):
        out.remarks.append("lora_conv_dim: no convolutions have a LoRA")
    for name, lora in texts.items():
        of_text = "linear" if unet.targets == "all" else unet.targets
        if (lora.rank, lora.alpha, lora.kind, lora.rslora, lora.targets) != (
            unet.rank,
            unet.alpha,
            unet.kind,
            unet.rslora,
            of_text,
        ):
            out.remarks.append(
                f"{name} has another rank, alpha, kind or other layers than the UNet: the UNet's count for it there"
            )


def _optimizer(config: Config, options: TrainOptions, out: Exported) -> Entries:
    optim = config.optim
    assert optim is not None
    relative = optim.optimizer == "Adafactor" and optim.adafactor.relative_step
    rates = [
        optim.rates.get(name, optim.base_learning_rate) if name in config.lora else 0.0
        for name in ("text_encoder_1", "text_encoder_2")
    ]
    if optim.optimizer == "AdamW" and not optim.bias_correction:
        out.remarks.append(EARLIER_ADAM)
    if optim.text_encoder_stop_share < 1:
        out.remarks.append("text_encoder_stop_share: the text encoders train to the end there")
    if optim.ema_decay is not None:
        out.remarks.append("ema_decay: the last matrices are saved there, not their average")
    return {
        "optimizer_type": optim.optimizer,
        "optimizer_args": _optimizer_arguments(optim),
        "learning_rate": None if relative else optim.base_learning_rate,
        "unet_lr": None if relative else optim.rates.get("unet", optim.base_learning_rate),
        "text_encoder_lr": None if relative or len(config.lora) == 1 else rates,
        "max_grad_norm": options.max_grad_norm if options.clip_grad else 0.0,
    }


def _optimizer_arguments(optim: OptimConfig) -> list[str]:
    decay = f"weight_decay={optim.weight_decay!r}"
    betas = f"betas={optim.beta1!r},{optim.beta2!r}"
    if optim.optimizer == "Adafactor":
        a = optim.adafactor
        found = {
            "eps": f"{a.eps1!r},{a.eps2!r}",
            "clip_threshold": a.clip_threshold,
            "decay_rate": a.decay_rate,
            "beta1": a.beta1,
        }
        found |= {"scale_parameter": a.scale_parameter, "relative_step": a.relative_step, "warmup_init": a.warmup_init}
        return [f"{name}={value}" for name, value in found.items()] + [decay]
    if optim.optimizer == "Lion":
        return [betas, decay]
    arguments = [betas, f"eps={optim.eps!r}", decay]
    if optim.optimizer == "Prodigy":
        p = optim.prodigy
        own: Entries = {"beta3": p.beta3, "decouple": p.decouple, "use_bias_correction": optim.bias_correction}
        own |= {"safeguard_warmup": p.safeguard_warmup, "d0": p.d0, "d_coef": p.d_coef, "growth_rate": p.growth_rate}
        arguments += [f"{name}={value!r}" for name, value in own.items() if value is not None]
    return arguments


def _schedule(optim: OptimConfig, total: int, out: Exported) -> Entries:
    warmup = optim.warmup_share or optim.warmup_steps
    name = SCHEDULES[optim.schedule]
    if optim.schedule == "constant" and warmup:
        name = "constant_with_warmup"
    entries: Entries = {"lr_scheduler": name, "max_train_steps": total}
    if optim.optimizer == "Adafactor" and optim.adafactor.relative_step:
        return {"lr_scheduler": "adafactor", "max_train_steps": total}
    if optim.final_factor and optim.schedule == "cosine":
        entries |= {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_min_lr_ratio": optim.final_factor}
    elif optim.final_factor and optim.schedule in ("linear", "polynomial"):
        out.remarks.append(f"final_factor {optim.final_factor:g}: the rate falls to 0 there")
    if warmup:
        entries["lr_warmup_steps"] = warmup
    if optim.schedule == "cosine_restarts":
        entries["lr_scheduler_num_cycles"] = optim.num_cycles
    if optim.schedule == "polynomial":
        entries["lr_scheduler_power"] = optim.power
    return entries


def _loss(config: Config, options: TrainOptions, classes: Sequence[ClassFolder], out: Exported) -> Entries:
    noise, loss, weighting, v = config.noise, config.loss, config.weighting, config.model.prediction == "v"
    entries: Entries = {
        "noise_offset": noise.offset_noise_level or None,
        "multires_noise_iterations": noise.multires_noise_iterations or None,
        "multires_noise_discount": noise.multires_noise_discount if noise.multires_noise_iterations else None,
        "ip_noise_gamma": noise.input_perturbation or None,
        "min_timestep": noise.min_timestep or None,
        "max_timestep": noise.max_timestep if noise.max_timestep < config.model.num_timesteps else None,
        "prior_loss_weight": options.prior_loss_weight if classes else None,
        "masked_loss": True if config.data and config.data.masks else None,
    }
    if loss.loss_type != "l2":
        entries |= {"loss_type": loss.loss_type, "huber_c": loss.huber_c, "huber_schedule": loss.huber_schedule}
    of = LOSSES.get((weighting.name, v))
    if of is None:
        out.remarks.append(f"weighting_config {weighting.name}: every noise level counts alike there")
    elif weighting.name == "MinSNRWeighting":
        entries["min_snr_gamma"] = weighting.params["gamma"]
    elif of:
        entries[of] = True
    if noise.multires_noise_iterations:
        out.remarks.append("multires noise: sd-scripts divides by the deviation of a batch, this suite by each sample's")
    if classes:
        out.remarks.append(
            "the mean over a batch of photos and class images is half of this suite's mean of the photos + weight x mean of the class images: "
            "compare losses x 2"
        )
    return entries


def _machine(config: Config, options: TrainOptions, out: Exported, ranks: int) -> Entries:
    amp = options.machine.amp_level
    if options.seed >= _LARGEST_SEED:
        out.remarks.append(f"seed {options.seed}: at most {_LARGEST_SEED - 1} there")
    if ranks > 1:
        out.remarks.append(f"{ranks} devices: accelerate launch --num_processes {ranks}")
    for name, (usual, words) in OF_OPTIONS.items():
        if getattr(options, name) != usual:
            out.remarks.append(words)
    data = config.data
    assert data is not None
    return {
        "seed": options.seed % _LARGEST_SEED,
        "mixed_precision": "no" if amp == "O0" else "fp16",
        "gradient_checkpointing": config.model.unet.use_recompute,
        "gradient_accumulation_steps": options.gradient_accumulation_steps,
        "cache_latents": data.crop == "center",  # sd-scripts keeps no latents of crops that it draws anew
        "sdpa": True,
        "max_token_length": data.max_tokens if data.max_tokens > 75 else None,
        "max_data_loader_n_workers": data.num_parallel_workers,
    }


def _saving(options: TrainOptions, out: Exported) -> Entries:
    entries: Entries = {
        "output_dir": abspath(options.save_path),
        "output_name": "lora",
        "save_model_as": "safetensors",
        "save_every_n_steps": options.save_ckpt_interval,
    }
    if options.max_num_ckpt:
        entries["save_last_n_steps"] = max(1, options.save_ckpt_interval * (options.max_num_ckpt - 1))
    if not options.infer_during_train:
        return entries
    if options.infer_prompts and not options.infer_prompts.endswith((".yaml", ".yml")):
        return {
            **entries,
            "sample_every_n_steps": options.infer_interval,
            "sample_prompts": abspath(options.infer_prompts),
            "sample_sampler": "euler",
        }
    out.remarks.append("progress pictures: sd-scripts reads their prompts from a text file, --sample_prompts")
    return entries


def _dataset(
    config: Config, options: TrainOptions, subjects: Sequence[Subject], classes: Sequence[ClassFolder], out: Exported
) -> Entries:
    data = config.data
    assert data is not None
    captions, sets = data.captions, 2 if classes else 1
    _data_remarks(config, subjects, classes, out)
    prefix = f"{captions.trigger}, {captions.prefix or ''}".strip(", ") + "," if captions.trigger else captions.prefix
    general: Entries = {
        "caption_extension": captions.extensions[0] if captions.extensions else ".no_captions",
        "caption_separator": captions.separator if captions.separator != "," else None,
        "shuffle_caption": captions.shuffle,
        "keep_tokens": captions.keep_tokens,
        "keep_tokens_separator": captions.keep_tokens_separator,
        "caption_prefix": prefix,
        "caption_suffix": captions.suffix,
        "caption_dropout_rate": captions.dropout or None,
        "caption_tag_dropout_rate": captions.tag_dropout or None,
        "random_crop": data.crop == "random",
        "resize_interpolation": INTERPOLATION[data.interpolation],
    }
    dataset: Entries = {
        "resolution": data.target_size,
        "batch_size": data.per_batch_size * sets,
        "enable_bucket": data.buckets is not None,
    }
    if data.buckets:
        dataset |= {name: getattr(data.buckets, ours) for name, ours in BUCKETS.items()}
        dataset["bucket_no_upscale"] = not data.buckets.upscale
    subsets: list[Entries] = [
        {
            "image_dir": abspath(subject.folder),
            "class_tokens": subject.prompt,
            "num_repeats": subject.repeats,
            "alpha_mask": True if data.masks else None,
        }
        for subject in subjects
    ]
    subsets += [
        {"image_dir": abspath(one.folder), "class_tokens": one.prompt, "num_repeats": one.repeats, "is_reg": True}
        for one in classes
    ]
    return {"general": general, "dataset": dataset, "subsets": subsets}


def _data_remarks(config: Config, subjects: Sequence[Subject], classes: Sequence[ClassFolder], out: Exported) -> None:
    data = config.data
    assert data is not None
    captions, say = data.captions, out.remarks.append
    if data.target_size % SDXL_SIDE or (data.buckets and data.buckets.step % SDXL_SIDE):
        say(f"target_size {data.target_size}: sd-scripts' sides are multiples of {SDXL_SIDE}")
    if data.buckets:
        say(f"max_buckets {data.buckets.max_buckets}: sd-scripts uses as many shapes as its rule gives")
    if data.crop == "random":
        say("random crops: sd-scripts draws a new one whenever a photo is read, this suite one for each repeat")
    if not data.shuffle:
        say("shuffle: False: sd-scripts always shuffles the photos")
    if len(captions.extensions) > 1:
        say(f"captions.extensions: sd-scripts reads {captions.extensions[0]} alone, not {', '.join(captions.extensions[1:])}")
    if captions.trigger:
        say(f"captions.trigger: {captions.trigger!r} stands in front of every caption there, and [trigger] is not replaced")
    if captions.shuffle or captions.tag_dropout:
        say("captions.variants: sd-scripts varies a caption without end")
    if data.masks:
        say(
            f"masks: sd-scripts takes them from the photos' alpha channel (alpha_mask), black counting {data.masks.unmasked_weight:g} is "
            f"a grey of {round(255 * data.masks.unmasked_weight)} there; without one all counts"
        )
        if data.masks.normalise or data.masks.prior_weight:
            say("masks.normalise and masks.prior_weight: neither there")
    if any(subject.weight != 1 for subject in subjects):
        say("weights of concepts: all count alike there")
    if classes:
        say("class images: sd-scripts makes none, --stop_after_sampling True of this suite does")
