"""Settings of OneTrainer (Nerogar) for a LoRA of SDXL -> this suite's. Reading its JSON is onetrainer_file.py.

Photos, captions, shapes, updates, saving and sampling are onetrainer_data.py, the optimizer onetrainer_optimizer.py; what needs no
thought is the table of onetrainer_words.py. The facts are those of its modules/trainer/GenericTrainer.py, modules/util/create.py and
modules/modelSetup.
"""

import math
import re
from typing import Callable, Optional

from gm.errors import UserError, shown
from gm.recipes.draft import DATASET, DIFFERS, TAKEN, TIMESTEPS, UNSUPPORTED, Draft, Settings
from gm.recipes.layers import Chosen, choose_layers
from gm.recipes.onetrainer_data import Run, put_data
from gm.recipes.onetrainer_optimizer import put_optimizer_and_schedule
from gm.recipes.onetrainer_words import OTHER_PARTS, SAID, say_words
from gm.recipes.parts import Lora, put_lora, put_loss, put_prediction, put_rates, put_weighting
from gm.recipes.updates import Hints

SDXL = "STABLE_DIFFUSION_XL_10_BASE"
PARTS = {"unet": "unet", "text_encoder": "text_encoder_1", "text_encoder_2": "text_encoder_2"}  # there -> here
PRESETS = {"attn-mlp": ["attentions"], "attn-only": ["attn"], "full": []}  # of layers, as its window offers them for SDXL
KINDS = {"LOHA": "LoHa", "OFT_2": "OFT", "LOKR": "LoKr"}  # that do not exist here


def read_onetrainer(settings: Settings, draft: Draft, hints: Hints) -> None:
    """All settings of one training of a LoRA for SDXL, `expanded`. UserError for that of another model, or of something else."""
    _require_lora_for_sdxl(settings)
    run = put_data(settings, draft, hints)
    networks = _rates(settings, draft, run)
    _network(settings, draft, networks)
    put_optimizer_and_schedule(settings, draft, run.total)
    _stops(settings, draft, run, networks)
    _prediction(settings, draft)
    scale = _loss(settings, draft) * _loss_scale(settings, run)
    _clipping(settings, draft, scale)
    _noise(settings, draft)
    _masks(settings, draft, networks)
    _precision(settings, draft)
    say_words(settings, SAID)
    settings.taken([name for name in settings.values if name.partition(".")[0] in OTHER_PARTS], SAID[OTHER_PARTS[0]][1])
    settings.taken([name for name in settings.values if name.startswith("embedding.")], SAID["embedding"][1])
    settings.close()


def _require_lora_for_sdxl(settings: Settings) -> None:
    model, method = settings.text("model_type", SDXL), settings.text("training_method", "FINE_TUNE")
    if model != SDXL:
        raise UserError(f"{settings.where} is for the model {model}, not for SDXL: give a recipe whose model_type is {SDXL}")
    if method != "LORA":
        raise UserError(
            f"{settings.where} has the training_method {method}, but this suite trains LoRA: give a recipe whose training_method is LORA"
        )


def _rates(settings: Settings, draft: Draft, run: Run) -> list[str]:
    """The rates. Returns the networks that train, by their names here."""
    usual = settings.number("learning_rate", float, 3e-6)
    scaler = settings.text("learning_rate_scaler") or "NONE"
    factor = math.sqrt(_scale_of(scaler, run))
    trained = [part for part in PARTS if settings.flag(f"{part}.train", True)]
    if not trained:
        raise UserError(f"{settings.where} trains neither the UNet nor a text encoder: set train to true for one of them")
    rates = {part: settings.number(f"{part}.learning_rate", float, usual) * factor for part in PARTS}
    put_rates(draft, rates["unet"], [rates[part] if part in trained else None for part in ("text_encoder", "text_encoder_2")])
    if "unet" not in trained:
        draft.put("optim.base_learning_rate", rates[trained[0]])
        draft.put("optim.rates.unet", 0.0)
    settings.taken("learning_rate", f"optim.base_learning_rate: {draft.tree['optim']['base_learning_rate']:g}")
    settings.default("learning_rate", "3e-6", f"optim.base_learning_rate: {draft.tree['optim']['base_learning_rate']:g}")
    words = "off, as here" if factor == 1 else f"rates are times {factor:g}, the root of what it counts"
    settings.taken("learning_rate_scaler", words)
    for part, network in PARTS.items():
        name = "the UNet" if part == "unet" else f"text encoder {network[-1]}"
        if part in trained:
            settings.taken(f"{part}.train", f"LoRA in {name}, at the rate {rates[part]:g}")
            settings.taken(f"{part}.learning_rate", f"the rate of {name}: {rates[part]:g}")
        else:
            settings.taken(f"{part}.train", f"no LoRA in {name}" if part != "unet" else "optim.rates.unet: 0")
            settings.taken(f"{part}.learning_rate", f"{name} does not train")
        if part != "unet":
            settings.default(f"{part}.train", True, f"{name} trains too, at {rates[part]:g}")
    return [PARTS[part] for part in trained]


def _scale_of(name: str, run: Run) -> float:
    """What a scaler of rates or of losses counts, on one device."""
    known = {"NONE": 1, "BATCH": run.batch, "GLOBAL_BATCH": run.batch, "GRADIENT_ACCUMULATION": run.accumulated}
    return known.get(name, run.batch * run.accumulated)


def _network(settings: Settings, draft: Draft, networks: list[str]) -> None:
    kind, rank = settings.text("peft_type") or "LORA", settings.number("lora_rank", int, 16)
    alpha, dropout = settings.number("lora_alpha", float, 1.0), settings.number("dropout_probability", float, 0.0)
    dora = settings.flag("lora_decompose")
    chosen = _layers(settings)
    lora = Lora(
        rank=rank,
        alpha=alpha if alpha > 0 else float(rank),
        targets=chosen.targets,
        kind="dora" if dora else "lora",
        dropout=dropout if dora else 0.0,
        neuron_dropout=0.0 if dora else dropout,
        text_targets="linear",
    )
    put_lora(draft, lora, networks)
    if kind == "LORA":
        settings.taken("peft_type", f"lora_kind: {lora.kind}")
    else:
        of = KINDS.get(kind, kind)
        settings.unsupported("peft_type", f"{of} does not exist here: a LoRA of rank {rank} instead, which needs another rate")
    settings.taken("lora_rank", f"lora_dim: {rank}")
    settings.default("lora_rank", 16, "lora_dim: 16")
    settings.taken("lora_alpha", f"lora_alpha: {lora.alpha:g}")
    settings.default("lora_alpha", 1.0, f"lora_alpha: 1, so that the update is 1 / {rank} of B A x")
    settings.taken("lora_decompose", "lora_kind: dora" if dora else "off, as here")
    rows = settings.flag("lora_decompose_output_axis")
    words = "a magnitude for each output, as here" if rows else "a magnitude for each output here, for each input there"
    settings.say(
        TAKEN if rows or not dora else DIFFERS,
        "lora_decompose_output_axis",
        words if dora else "acts with lora_decompose alone",
    )
    if dora:
        settings.default("lora_decompose_output_axis", False, words, DIFFERS)
    if not dropout:
        settings.off("dropout_probability")
    elif dora:
        words = f"lora_dropout: {dropout:g}, of the LoRA's inputs; there the inputs of the whole layer are dropped"
        settings.differs("dropout_probability", words)
    else:
        settings.taken("dropout_probability", f"lora_neuron_dropout: {dropout:g}")
    wide = settings.text("lora_weight_dtype") or "FLOAT_32"
    settings.say(TAKEN if wide == "FLOAT_32" else DIFFERS, "lora_weight_dtype", "the LoRA is always float32")
    start = settings.text("lora_model_name")
    if start:
        draft.flags["start_from"] = start
        settings.taken("lora_model_name", f"--weight BASE,{start}")
    if "text_encoder_2" in networks:
        draft.notes.append(
            "OneTrainer's LoRA of the second text encoder has its text_projection as well, which can have none here."
        )
    _embeddings(settings)


def _layers(settings: Settings) -> Chosen:
    """Which layers of the UNet: its window writes those of the preset over the filter, but for the preset custom."""
    preset, text = settings.text("layer_filter_preset"), settings.text("layer_filter") or ""
    regex = settings.flag("layer_filter_regex")
    by_preset = preset in PRESETS and ("layer_filter" not in settings or preset != "full")
    filters = PRESETS[preset] if by_preset and preset else [part.strip() for part in text.split(",")]
    chosen = choose_layers(_matching(filters, regex and not by_preset, settings.where))
    if not chosen.count:
        raise UserError(
            f"{settings.where}: layer_filter is {shown(text)}, which matches no layer of SDXL's UNet that can have a LoRA"
        )
    names, words = ["layer_filter_preset", "layer_filter", "layer_filter_regex"], chosen.words
    if preset and preset not in PRESETS and preset != "custom" and not text:
        settings.unsupported("layer_filter_preset", f"not one of its presets for SDXL: {words}")
    settings.say(DIFFERS if chosen.without else TAKEN, names, words)
    if preset is None and not text:
        settings.default("layer_filter_preset", "full", words, DIFFERS)
    return chosen


def _matching(filters: list[str], regex: bool, where: str) -> Callable[[str], bool]:
    """Whether a layer has one of these parts in its name; no part, or an empty one: every layer."""
    parts = [part for part in filters if part]
    if not parts or len(parts) < len(filters):
        return lambda name: True
    if not regex:
        return lambda name: any(part in name for part in parts)
    try:
        patterns = [re.compile(part) for part in parts]
    except re.error as error:
        raise UserError(f"{where}: layer_filter is no list of regular expressions: {error}") from None
    return lambda name: any(pattern.search(name) for pattern in patterns)


def _embeddings(settings: Settings) -> None:
    if settings.values.get("additional_embeddings"):
        settings.unsupported("additional_embeddings", "no words are learned here: write in prompts what the words stand for")
    settings.taken("additional_embeddings", "none")


def _stops(settings: Settings, draft: Draft, run: Run, networks: list[str]) -> None:
    """When a network stops training: the text encoders at one share of the updates."""
    shares = {}
    for part, network in PARTS.items():
        names = [f"{part}.stop_training_after", f"{part}.stop_training_after_unit"]
        usual = ("NEVER", 0) if part == "unet" else ("EPOCH", 30)
        unit = settings.text(names[1]) or usual[0]
        after = settings.number(names[0], float, None if names[0] in settings.empty else usual[1]) or 0.0
        share = {"EPOCH": after / run.epochs, "STEP": after / max(1, run.batches), "NEVER": 1.0}.get(unit)
        if network not in networks:
            settings.taken(names, "it does not train")
        elif share is None:
            settings.unsupported(names, f"trains to the end: only a share of the {run.total} updates can be said, not a time")
        elif share >= 1:
            settings.taken(names, "trains to the end")
        elif part == "unet" or "unet" not in networks:
            settings.unsupported(names, f"trains to the end of all {run.total} updates")
        else:
            shares[part] = max(share, 1 / run.total)
    if not shares:
        return
    last = round(max(shares.values()), 6)
    draft.put("optim.text_encoder_stop_share", last)
    for part in shares:
        both = len(shares) == sum(name != "unet" for name in networks) and len(set(shares.values())) == 1
        words = f"text_encoder_stop_share: {last:g}, update {round(last * run.total)} of {run.total}"
        words += "" if both else "; one share for both text encoders, the later"
        settings.say(TAKEN if both else DIFFERS, [f"{part}.stop_training_after", f"{part}.stop_training_after_unit"], words)
        settings.default(f"{part}.stop_training_after", "30 EPOCH", words, TAKEN if both else DIFFERS)


def _prediction(settings: Settings, draft: Draft) -> None:
    zero, v = settings.flag("rescale_noise_scheduler_to_zero_terminal_snr"), settings.flag("force_v_prediction")
    words = put_prediction(draft, v or zero, zero)
    settings.taken("rescale_noise_scheduler_to_zero_terminal_snr", words if zero else "off, as here")
    if v and not zero:
        settings.differs(
            "force_v_prediction", f"{words}; its LoRA training does not look at this and does what the model's files say"
        )
    settings.taken("force_v_prediction", words if v or zero else f"{words}: what a model of v predicts must be set to true")
    settings.taken("force_epsilon_prediction", words)


def _is_v(draft: Draft) -> bool:
    return draft.tree["model"]["params"]["denoiser_config"]["params"]["scaling_config"]["target"].endswith("VScaling")


def _loss(settings: Settings, draft: Draft) -> float:
    """Returns how many times as large the loss is there."""
    strengths = {name: settings.number(f"{name}_strength", float, 1.0 if name == "mse" else 0.0) for name in _LOSSES}
    delta = settings.number("huber_delta", float, 1.0)
    main = next((name for name in _LOSSES if strengths[name]), "mse")
    loss_type, threshold, factor, words = _LOSSES[main]
    if loss_type != "l2":
        put_loss(draft, "loss_type", loss_type)
        put_loss(draft, "huber_c", threshold or delta)
        put_loss(draft, "huber_schedule", "constant")
    factor *= strengths[main] or 1.0
    for name, strength in strengths.items():
        if not strength:
            settings.off(f"{name}_strength")
        elif name == main:
            more = "" if strength == 1 else f"; a loss times {strength:g} changes only what is clipped, see clip_grad_norm"
            outcome = TAKEN if loss_type == "l2" and strength == 1 else DIFFERS
            settings.say(outcome, f"{name}_strength", words.format(c=threshold or delta) + more)
        else:
            settings.unsupported(f"{name}_strength", f"one loss, that of {main}_strength")
    settings.taken("huber_delta", f"huber_c: {delta:g}" if main == "huber" else "acts with huber_strength alone")
    _weighting(settings, draft)
    return factor


# strength there -> loss_type here, its huber_c (0: huber_delta), how many times as large the loss is there, words
_LOSSES: dict[str, tuple[str, float, float, str]] = {
    "mse": ("l2", 0.0, 1.0, "l2, as here"),
    "huber": (
        "huber",
        0.0,
        0.5,
        "loss_type: huber, huber_c: {c:g}, constant: bends smoothly where torch's Huber loss has a joint",
    ),
    "log_cosh": (
        "huber",
        1.0,
        0.5,
        "loss_type: huber, huber_c: 1, constant: the same for small errors, at most 0.31 less for large ones",
    ),
    "mae": ("smooth_l1", 0.001, 0.5, "loss_type: smooth_l1, huber_c: {c:g}, constant: |error| but for errors as small"),
}


def _weighting(settings: Settings, draft: Draft) -> None:
    name, strength = settings.text("loss_weight_fn") or "CONSTANT", settings.number("loss_weight_strength", float, 5.0)
    v, outcome, more = _is_v(draft), TAKEN, ""
    if name == "MIN_SNR_GAMMA":
        words = put_weighting(draft, "MinSNRWeighting", strength)
        settings.default("loss_weight_strength", 5.0, words)
    elif name == "DEBIASED_ESTIMATION":
        words = put_weighting(draft, "DebiasedWeighting")
        outcome, more = (DIFFERS, "; of v it is 1 / (SNR + 1) here, the root of that there") if v else (TAKEN, "")
    elif name == "P2" and strength:
        near = put_weighting(draft, "MinSNRWeighting", 1.0) if strength > 0.75 else put_weighting(draft, "DebiasedWeighting")
        outcome, words = UNSUPPORTED, f"(SNR + 1)^-{strength:g} is not here: {near} instead, which falls in a like way"
    else:
        words = put_weighting(draft, "VWeighting" if v else "EpsWeighting")
        outcome, more = (TAKEN, "") if name in ("CONSTANT", "P2") else (UNSUPPORTED, ": all levels count alike")
    settings.say(outcome, "loss_weight_fn", words + more)
    settings.say(
        outcome if name == "P2" else TAKEN,
        "loss_weight_strength",
        words if name in ("MIN_SNR_GAMMA", "P2") else f"has no effect with {name}",
    )


def _loss_scale(settings: Settings, run: Run) -> float:
    name = settings.text("loss_scaler") or "NONE"
    scale = _scale_of(name, run)
    if scale == 1:
        settings.off("loss_scaler")
    settings.differs("loss_scaler", f"a loss times {scale:g} changes only what is clipped, see clip_grad_norm")
    return scale


def _clipping(settings: Settings, draft: Draft, scale: float) -> None:
    """`scale`: how many times as large gradients are there."""
    if "clip_grad_norm" in settings.empty:
        return
    norm = settings.number("clip_grad_norm", float, 1.0)
    draft.flags |= {"clip_grad": True, "max_grad_norm": round(norm / scale, 6)}
    words = f"--clip_grad True --max_grad_norm {norm / scale:g}"
    words += "" if scale == 1 else f", as gradients are {scale:g} times as large there"
    each = settings.flag("optimizer.fused_back_pass")
    words += "; the norm of all gradients, not of each matrix as with fused_back_pass" if each else ""
    settings.say(DIFFERS if each else TAKEN, "clip_grad_norm", words)
    settings.default("clip_grad_norm", "1.0", words)


def _noise(settings: Settings, draft: Draft) -> None:
    offset, more = settings.number("offset_noise_weight", float, 0.0), settings.number("perturbation_noise_weight", float, 0.0)
    by_level = settings.flag("generalized_offset_noise")
    if offset:
        settings.taken("offset_noise_weight", put_loss(draft, "offset_noise_level", offset))
        if by_level:
            settings.unsupported("generalized_offset_noise", "the same offset at every noise level")
    settings.off(["offset_noise_weight"])
    settings.taken("generalized_offset_noise", "off, as here" if not by_level else "acts with offset_noise_weight alone")
    if more:
        times = math.sqrt(1 + more * more)
        words = f"off: there it is a part of what is learned as well, so that all noise is {times:.3f} times as large"
        settings.unsupported("perturbation_noise_weight", words)
    settings.off("perturbation_noise_weight")
    for name, key, usual in (("min_noising_strength", "min_timestep", 0.0), ("max_noising_strength", "max_timestep", 1.0)):
        level = int(1000 * settings.number(name, float, usual))
        if level != 1000 * usual:
            draft.put(TIMESTEPS + key, level)
        settings.taken(name, f"sigma_sampler_config: {key}: {level}")
    kind, shift = settings.text("timestep_distribution") or "UNIFORM", settings.number("timestep_shift", float, 1.0)
    if kind == "UNIFORM":
        settings.taken("timestep_distribution", "all noise levels alike, as here")
    settings.unsupported("timestep_distribution", "all noise levels alike: min_timestep and max_timestep can narrow them")
    settings.taken(
        ["noising_weight", "noising_bias"],
        f"of the distribution {kind}" if kind != "UNIFORM" else "has no effect with UNIFORM",
    )
    if shift != 1:
        settings.unsupported("timestep_shift", "1: noise levels are not shifted")
    settings.off("timestep_shift")


def _masks(settings: Settings, draft: Draft, networks: list[str]) -> None:
    names = ["unmasked_weight", "normalize_masked_area_loss", "masked_prior_preservation_weight"]
    if not settings.flag("masked_training"):
        settings.off("masked_training")
        settings.taken(names, "acts with masked_training alone")
        return
    least, normal = settings.number(names[0], float, 0.1), settings.flag(names[1])
    prior: Optional[float] = settings.number(names[2], float, 0.0)
    settings.taken("masked_training", "masks: NAME-masklabel.png beside each photo, as there")
    settings.taken(names[0], f"masks: unmasked_weight: {least:g}")
    settings.taken(names[1], f"masks: normalise: {normal}")
    if prior and networks != ["unet"]:
        settings.unsupported(names[2], "0: where text encoders train, the prediction without LoRA is not computed")
        prior = 0.0
    settings.taken(names[2], f"masks: prior_weight: {prior:g}")
    draft.put(DATASET + "masks", {"unmasked_weight": least, "normalise": normal, "prior_weight": prior})


def _precision(settings: Settings, draft: Draft) -> None:
    kind = settings.text("train_dtype") or "FLOAT_16"
    half = "float16 with float32 norms, softmax and LoRA"
    if kind in ("FLOAT_32", "TFLOAT_32"):
        draft.flags["ms_amp_level"] = "O0"
        settings.say(TAKEN if kind == "FLOAT_32" else DIFFERS, "train_dtype", "--ms_amp_level O0, float32")
    elif kind == "FLOAT_16":
        settings.taken("train_dtype", f"{half}, the default on a device; a CPU has float32")
    else:
        settings.differs("train_dtype", f"{half} instead of {kind.lower().replace('_', '')}; a CPU has float32")
    for name in (*(f"{part}.weight_dtype" for part in PARTS), "weight_dtype"):
        given = settings.text(name) or ""
        settings.say(TAKEN if given in ("FLOAT_16", "NONE") else DIFFERS, name, "float16, or float32 with --ms_amp_level O0")
    for name in (f"{part}.dropout_probability" for part in ("text_encoder", "text_encoder_2")):
        settings.off(name)
