"""Arguments of diffusers' scripts that train a LoRA for SDXL -> this suite's.

They are train_dreambooth_lora_sdxl.py, train_dreambooth_lora_sdxl_advanced.py and train_text_to_image_lora_sdxl.py of its examples;
what needs no thought is the table of diffusers_words.py. The name of the script is the setting `script`.
"""

import math
import re
from pathlib import Path
from typing import Any, Optional

from gm.checkpoint.diffusers_rules import unet_blocks
from gm.config.bounds import LARGEST_RANK
from gm.errors import UserError, shown
from gm.recipes.command_line import LAUNCHER, given_mixed_precision, say_launcher
from gm.recipes.diffusers_data import put_photos, put_pixels, put_results, put_updates
from gm.recipes.diffusers_words import SAID
from gm.recipes.draft import DIFFERS, TAKEN, UNSUPPORTED, Draft, Settings
from gm.recipes.optimizers import put_optimizer, put_schedule
from gm.recipes.parts import TEXT_ENCODERS, Lora, put_lora, put_loss, put_prediction, put_rates, put_weighting
from gm.recipes.updates import Hints

SCRIPT = "script"
_BLOCKS = {theirs: ours for ours, theirs in unet_blocks(3, 2, (1, 2)) if "attentions" in theirs}  # of SDXL's UNet
_B_LORA = "unet.up_blocks.0.attentions.0,unet.up_blocks.0.attentions.1"
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def is_diffusers(script: str) -> bool:
    """Whether it is one of diffusers' training scripts, for SDXL or another model."""
    return re.fullmatch(r"train_(dreambooth|text_to_image|instruct_pix2pix|controlnet)\w*[\w-]*\.py", script) is not None


def read_diffusers(settings: Settings, draft: Draft, hints: Hints) -> None:
    """All arguments of one of the scripts. UserError for a script that trains something else."""
    script = settings.text(SCRIPT) or (
        "train_text_to_image_lora_sdxl.py" if _has_no_subject(settings) else "train_dreambooth_lora_sdxl.py"
    )
    if "lora" not in script or not re.search("sd_?xl", script):
        raise UserError(
            f"{settings.where} is a command of {shown(script)}, which trains no LoRA for SDXL: give one of ..._lora_sdxl.py"
        )
    subject = "dreambooth" in script  # else a data set of pictures with captions
    settings.taken(SCRIPT, "DreamBooth with a LoRA" if subject else "a LoRA from photos with captions")
    _network(settings, draft, script)
    adaptive = _optimizer(settings, draft, subject, script)
    processes = say_launcher(settings)
    _model(settings, draft)
    photos = put_photos(settings, draft, hints, subject)
    total, an_epoch = put_updates(settings, draft, photos, subject, processes)
    _rates(settings, draft, subject, adaptive, processes)
    _schedule(settings, draft, subject, processes)
    put_pixels(settings, draft)
    _loss(settings, draft)
    put_results(settings, draft, total, an_epoch, subject)
    _machine(settings, draft)
    for name, (outcome, words) in SAID.items():
        settings.say(outcome, name, words)
    settings.close()


def _has_no_subject(settings: Settings) -> bool:
    return "instance_prompt" not in settings and "instance_data_dir" not in settings


def _network(settings: Settings, draft: Draft, script: str) -> None:
    rank, text, dora = settings.number("rank", int, 4), settings.flag("train_text_encoder"), settings.flag("use_dora")
    at_most = min(rank, LARGEST_RANK)
    blocks = _B_LORA if settings.flag("use_blora") or "b-lora" in script else settings.text("lora_unet_blocks")
    targets = _targets(settings, blocks) if blocks else "attention"
    lora = Lora(
        rank=at_most,
        alpha=float(at_most),
        targets=targets,
        kind="dora" if dora else "lora",
        dropout=settings.number("lora_dropout", float, 0.0),
        text_targets="attention",
    )
    put_lora(draft, lora, ("unet", *TEXT_ENCODERS) if text else ("unet",))
    words = f"lora_dim: {at_most}, lora_alpha: {at_most}, which is the rank there"
    settings.say(TAKEN if rank == at_most else DIFFERS, "rank", words)
    settings.default("rank", 4, words)
    settings.taken("lora_dropout", f"lora_dropout: {lora.dropout:g}")
    settings.taken("use_dora", "lora_kind: dora" if dora else "off, as here")
    settings.taken("train_text_encoder", "LoRA in q, k, v and out of both text encoders" if text else "off, as here")
    if blocks:
        settings.taken(["lora_unet_blocks", "use_blora"], f"lora_targets: {', '.join(targets)}")
    settings.off("use_blora")
    settings.default("targets", "to_k, to_q, to_v, to_out.0", "lora_targets: attention" if not blocks else "in these blocks")
    draft.notes.append(
        f"A starts as a normal distribution of deviation 1 / {rank} there, and as a uniform one of +-1 / sqrt(inputs) here, as in PEFT and "
        "sd-scripts: the first updates differ."
    )


def _targets(settings: Settings, blocks: str) -> list[str]:
    """Patterns of the attention in blocks called unet.up_blocks.0.attentions.1, of the UNet's names there."""
    found: list[str] = []
    for block in "".join(blocks.split()).split(","):
        inner = block.partition(".")[2]
        for theirs, ours in _BLOCKS.items():
            if theirs.startswith(inner) or inner.startswith(theirs + "."):
                deeper = inner[len(theirs) :] if inner.startswith(theirs) else ""
                found += [f"{ours}{deeper}.*to_[qkv]", f"{ours}{deeper}.*to_out.0"]
    if not found:
        raise UserError(
            f"{settings.where}: lora_unet_blocks is {shown(blocks)}, which names no block of SDXL's UNet with attention: one is "
            "called unet.up_blocks.0.attentions.1"
        )
    return list(dict.fromkeys(found))


def _optimizer(settings: Settings, draft: Draft, subject: bool, script: str) -> bool:
    """Returns whether it is Prodigy."""
    given = settings.text("optimizer", "AdamW") or "AdamW"
    known = given.lower() in ("adamw", "prodigy")
    name = given if known else "AdamW"
    prodigy = name.lower() == "prodigy"
    eight = settings.flag("use_8bit_adam") and not prodigy
    decay = 1e-4 if subject else 1e-2
    values: dict[str, Any] = {
        "beta1": settings.number("adam_beta1", float, 0.9),
        "beta2": settings.number("adam_beta2", float, 0.999),
        "eps": settings.number("adam_epsilon", float, 1e-8),
        "weight_decay": settings.number("adam_weight_decay", float, decay),
    }
    switches = {"prodigy_decouple": "decouple", "prodigy_use_bias_correction": "use_bias_correction"}
    switches["prodigy_safeguard_warmup"] = "safeguard_warmup"
    if prodigy:
        values |= {key: True for key in switches.values()}  # there any text behind the argument is true, also False
        if "prodigy_beta3" in settings:
            values["beta3"] = settings.number("prodigy_beta3", float)
    found = put_optimizer(draft, "AdamW8bit" if eight else name, values)
    if known:
        settings.say(found.outcome, "optimizer", found.words)
    settings.taken("optimizer", "AdamW, which stands in for any other name there too")
    settings.say(
        found.outcome if eight else TAKEN, "use_8bit_adam", found.words if eight else "AdamW's, has no effect there either"
    )
    for argument, key in {
        "adam_beta1": "beta1",
        "adam_beta2": "beta2",
        "adam_epsilon": "eps",
        "adam_weight_decay": "weight_decay",
    }.items():
        settings.taken(argument, f"optimizer_config: {key}: {values[key]:g}")
    settings.default("adam_weight_decay", f"{decay:g}", f"optimizer_config: weight_decay: {decay:g}")
    for argument, key in switches.items():
        false = str(settings.values.get(argument, True)).lower() in ("false", "0", "no")
        words = f"optimizer_config: {key}: True" + (", for the script takes any word for true" if false else "")
        settings.taken(argument, words if prodigy else "AdamW has no such argument")
        if prodigy:
            settings.default(argument, True, words)
    settings.taken(
        "prodigy_beta3", f"optimizer_config: beta3: {values.get('beta3')}" if prodigy else "AdamW has no such argument"
    )
    own = settings.number("adam_weight_decay_text_encoder", float, 1e-3 if script == "train_dreambooth_lora_sdxl.py" else None)
    if settings.flag("train_text_encoder") and own and own != values["weight_decay"]:
        words = f"weight_decay {values['weight_decay']:g} in all networks, not {own:g} in the text encoders"
        settings.differs("adam_weight_decay_text_encoder", words)
        settings.default("adam_weight_decay_text_encoder", f"{own:g}", words, DIFFERS)
    settings.taken("adam_weight_decay_text_encoder", "the same as the UNet's, or the text encoders stay as they are")
    norm = settings.number("max_grad_norm", float, 1.0)
    if norm > 0:
        draft.flags |= {"clip_grad": True, "max_grad_norm": norm}
        settings.taken("max_grad_norm", f"--clip_grad True --max_grad_norm {norm:g}")
    settings.differs("max_grad_norm", "gradients are not clipped; there 0 makes every gradient 0")
    settings.default("max_grad_norm", 1.0, "--clip_grad True --max_grad_norm 1")
    return prodigy


def _model(settings: Settings, draft: Draft) -> None:
    for name, flag in (("pretrained_model_name_or_path", "weight"), ("pretrained_vae_model_name_or_path", "vae")):
        path = settings.text(name) or ""
        if flag == "vae" and "fp16-fix" in path:
            settings.taken(name, "the base's own: the VAE always computes in float32, where the fix changes nothing")
        elif "$" in path or (_HUB.fullmatch(path) and not Path(path).exists()):
            settings.unsupported(name, f"nothing is downloaded: give its file, or its folder, as --{flag}")
        elif path:
            draft.flags[flag] = path
            settings.taken(name, f"--{flag} {path}")


def _rates(settings: Settings, draft: Draft, subject: bool, prodigy: bool, processes: int) -> None:
    rate = settings.number("learning_rate", float, 1e-4)
    words = f"optim.base_learning_rate: {rate:g}"
    if settings.flag("scale_lr"):
        factors = draft.tree["data"]["per_batch_size"], draft.flags.get("gradient_accumulation_steps", 1), processes
        scaled = rate * math.prod(factors)
        words = f"{rate:g} x batch {factors[0]} x {factors[1]} accumulated x {factors[2]} processes = {words[:26]}{scaled:g}"
        rate = scaled
        settings.taken("scale_lr", words)
    settings.off("scale_lr")
    settings.taken("learning_rate", words)
    settings.default("learning_rate", "0.0001", words)
    trains = settings.flag("train_text_encoder")
    of_text = rate if prodigy or not subject else settings.number("text_encoder_lr", float, 5e-6) or rate
    put_rates(draft, rate, (of_text, of_text) if trains else (None, None))
    own = f"optim.rates: {of_text:g} for both text encoders" if of_text != rate else "the UNet's, there as here"
    settings.taken("text_encoder_lr", own if trains else "the text encoders stay as they are")
    if trains and subject:
        settings.default("text_encoder_lr", "5e-06", own)


def _schedule(settings: Settings, draft: Draft, subject: bool, processes: int) -> None:
    """The warm-up is given in updates; the script for photos with captions counts micro-batches of all processes instead."""
    name = settings.text("lr_scheduler", "constant") or "constant"
    warmup, total = settings.number("lr_warmup_steps", int, 500), draft.tree["data"]["total_step"]
    factor = 1.0 if subject else draft.flags.get("gradient_accumulation_steps", 1) / processes
    steps = 0 if name == "constant" else round(warmup * factor)
    outcome, words = put_schedule(
        draft, name, steps, cycles=settings.number("lr_num_cycles", int, 1), power=settings.number("lr_power", float, 1.0)
    )
    if factor != 1 and name not in ("constant", "constant_with_warmup"):
        outcome, words = DIFFERS, f"{words}, over the {total} updates; the script's falls over {round(total * factor)}"
    settings.say(outcome, "lr_scheduler", words)
    if name == "constant":
        settings.taken("lr_warmup_steps", "no warm-up, which 'constant' has not got there either")
        return
    words = f"warmup_steps: {steps}" + (f", {warmup} x {factor:g}, as the script counts" if factor != 1 else "")
    settings.taken("lr_warmup_steps", words)
    settings.default("lr_warmup_steps", 500, words)
    settings.taken(
        "lr_num_cycles",
        f"num_cycles: {settings.values.get('lr_num_cycles')}" if "restarts" in name else "not of this schedule",
    )
    settings.taken("lr_power", f"power: {settings.values.get('lr_power')}" if name == "polynomial" else "not of this schedule")
    if steps >= total:
        draft.notes.append(
            f"The warm-up of {steps} updates is longer than the run: the rate never gets to its full height, there as here."
        )


def _loss(settings: Settings, draft: Draft) -> None:
    kind = settings.text("prediction_type", "epsilon")
    v = kind == "v_prediction"
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(f"{settings.where}: prediction_type is {shown(kind)}: it must be epsilon or v_prediction")
    if v:
        settings.taken("prediction_type", put_prediction(draft, True, False))
        put_weighting(draft, "VWeighting")
    settings.taken("prediction_type", "the noise, as here")
    gamma, edm = settings.number("snr_gamma", float), settings.flag("do_edm_style_training")
    if "playground" in (settings.text("pretrained_model_name_or_path") or "").lower():
        words = "Playground's noise levels do not exist here: its models train with SDXL's, which they have not seen"
        settings.unsupported("do_edm_style_training", words)
        settings.default("do_edm_style_training", "by the model", words, UNSUPPORTED)
        draft.notes.append("Playground models are trained with noise levels of their own: take SDXL 1.0 as the base instead.")
    if edm:
        words = "the same loss: there the error of the denoised latent / sigma^2, which is the error of the noise"
        settings.say(
            DIFFERS if gamma else TAKEN, "do_edm_style_training", f"{words}; snr_gamma acts on that" if gamma else words
        )
    settings.off("do_edm_style_training")
    if gamma:
        words = put_weighting(draft, "MinSNRWeighting", gamma)
        prior = settings.flag("with_prior_preservation")
        settings.say(
            DIFFERS if prior else TAKEN,
            "snr_gamma",
            words + (", of the class images as well, which have none there" if prior else ""),
        )
        if "instance_prompt" in settings:
            draft.notes.append(
                "With weights that predict v the script's min-SNR is min(SNR, gamma) / SNR + 1; here it is min(SNR, gamma) / (SNR + 1)."
            )
    offset = settings.number("noise_offset", float, 0.0)
    settings.taken("noise_offset", put_loss(draft, "offset_noise_level", offset) if offset else "off, as here")


def _machine(settings: Settings, draft: Draft) -> None:
    seed: Optional[int] = settings.number("seed", int)
    if seed is not None:
        draft.flags["seed"] = abs(seed)
        settings.differs("seed", f"--seed {abs(seed)}: the order and the noise of this suite, not those of torch")
    precision = given_mixed_precision(settings.values)
    if precision in (None, "no"):
        draft.flags["ms_amp_level"] = "O0"
        words = "--ms_amp_level O0, float32"
        settings.taken("mixed_precision", words)
        if LAUNCHER + "mixed_precision" not in settings:
            settings.default(
                "mixed_precision", "no", f"{words}; if accelerate's own file says fp16 or bf16, leave the flag away"
            )
    words = "float16 with float32 norms, softmax and LoRA, the default on a device; a CPU has float32"
    settings.say(
        TAKEN if precision == "fp16" else DIFFERS,
        "mixed_precision",
        words if precision == "fp16" else f"not bfloat16 but {words}",
    )
    recompute = settings.flag("gradient_checkpointing")
    if recompute:
        draft.put("model.params.network_config.params.use_recompute", True)
    settings.taken("gradient_checkpointing", f"use_recompute: {recompute}")
