"""Settings of ai-toolkit (ostris) for a LoRA of SDXL -> this suite's. Reading its YAML is ai_toolkit_file.py.

Photos, captions and masks are ai_toolkit_photos.py, updates, shapes, saving and sampling ai_toolkit_data.py; what needs no thought is the table of
ai_toolkit_words.py. The facts are those of its extensions_built_in/sd_trainer/SDTrainer.py, jobs/process/BaseSDTrainProcess.py and
toolkit.
"""

from typing import Any

from gm.errors import UserError, shown
from gm.recipes.ai_toolkit_data import Steps, put_data
from gm.recipes.ai_toolkit_words import NETWORK_KWARGS, SAID, say_words
from gm.recipes.draft import DIFFERS, TAKEN, TIMESTEPS, UNSUPPORTED, Draft, Settings
from gm.recipes.layers import WITHOUT, choose_layers
from gm.recipes.optimizers import put_optimizer, put_schedule
from gm.recipes.parts import Lora, put_lora, put_loss, put_prediction, put_rates, put_weighting
from gm.recipes.updates import Hints

TRAINERS = ("sd_trainer", "ui_trainer", "diffusion_trainer")  # types of a process that trains a LoRA
RANK = 16  # in place of a kind of network whose rank says nothing about a LoRA's
OTHER_MODELS = ("is_v2", "is_v3", "is_pixart", "is_pixart_sigma", "is_auraflow", "is_flux", "is_lumina2", "is_ssd", "is_vega")
_NETWORK, _KWARGS, _OPTIMIZER = "network.", "network.network_kwargs.", "train.optimizer_params."
_SCHEDULER, _AVERAGE = "train.lr_scheduler_params.", "train.ema_config."
_WIDE = (".conv1", ".conv2", ".conv", "conv_in", "conv_out")  # ends of names of convolutions larger than 1 x 1
_LIKE_LORA = {"lora": "lora", "locon": "lora", "lycoris": "lora", "lierla": "lora", "c3lier": "lora", "dora": "dora"}


def read_ai_toolkit(settings: Settings, draft: Draft, hints: Hints) -> None:
    """All settings of one training of a LoRA for SDXL, `expanded`. UserError for that of another model, or of something else.

    It says how many steps, so that `hints` change nothing."""
    _require_lora_for_sdxl(settings)
    steps = put_data(settings, draft)
    networks = _rates(settings, draft)
    _network(settings, draft, networks)
    _optimizer(settings, draft, networks)
    _schedule(settings, draft, steps)
    _average(settings, draft)
    scale = _loss(settings, draft)
    _clipping(settings, draft, scale * steps.summed)
    _noise(settings, draft)
    say_words(settings, SAID)
    settings.taken([name for name in settings.values if name.partition(".")[0] == "meta"], "a remark")
    settings.close()


def _require_lora_for_sdxl(settings: Settings) -> None:
    kind, arch = settings.text("type") or "", (settings.text("model.arch") or "").partition(":")[0]
    other = next((name[3:] for name in OTHER_MODELS if settings.flag(f"model.{name}")), None)
    if kind not in TRAINERS:
        raise UserError(
            f"{settings.where} has a process of the type {shown(kind)}, which trains no LoRA: give a job whose process is a "
            f"{TRAINERS[0]}"
        )
    if other or arch and arch != "sdxl" or not arch and not settings.flag("model.is_xl"):
        given = other or arch or "Stable Diffusion 1"
        raise UserError(f"{settings.where} is for the model {given}, not for SDXL: give a job whose model has is_xl: true")
    if not any(name.partition(".")[0] == "network" for name in settings.values):
        raise UserError(f"{settings.where} has no network, so it trains no LoRA: give a job with a network of the type lora")
    for part in ("embedding", "adapter", "slider", "decorator"):
        if settings.values.get(part):
            raise UserError(f"{settings.where} trains an {part} beside or instead of a LoRA: give a job without {part}")
    if settings.text("train.noise_scheduler") == "flowmatch":
        raise UserError(
            f"{settings.where} trains SDXL by flow matching, which this suite does not: give a job whose noise_scheduler is ddpm"
        )


def _rates(settings: Settings, draft: Draft) -> list[str]:
    """The rate: of a LoRA, all networks have `lr`. Returns the networks that train."""
    rate = settings.number("train.lr", float, 1e-6)
    unet, text = settings.flag("train.train_unet", True), settings.flag("train.train_text_encoder")
    encoders = [i for i in (1, 2) if settings.flag(f"model.use_text_encoder_{i}", True)] if text else []
    if not unet and not encoders:
        raise UserError(f"{settings.where} trains neither the UNet nor a text encoder: set train_unet to true")
    put_rates(draft, rate)
    if not unet:
        draft.put("optim.rates.unet", 0.0)
    settings.taken("train.lr", f"optim.base_learning_rate: {rate:g}")
    settings.default("train.lr", "1e-6", f"optim.base_learning_rate: {rate:g}")
    for name in ("train.unet_lr", "train.text_encoder_lr"):
        if name in settings and settings.number(name, float) != rate:
            settings.differs(
                name, f"{rate:g}, the rate lr: ai-toolkit trains a LoRA at lr in every network; optim.rates sets others"
            )
        settings.taken(name, f"the same as lr: {rate:g}")
    settings.taken("train.train_unet", "LoRA in the UNet" if unet else "optim.rates.unet: 0")
    settings.taken(
        "train.train_text_encoder", f"LoRA in text encoder {' and '.join(map(str, encoders))}" if encoders else "off, as here"
    )
    for i in (1, 2):
        settings.taken(f"model.use_text_encoder_{i}", "it trains" if i in encoders else "it does not train")
    return [*(["unet"]), *(f"text_encoder_{i}" for i in encoders)]


def _network(settings: Settings, draft: Draft, networks: list[str]) -> None:
    kind = (settings.text("network.type") or "lora").lower()
    rank = settings.number("network.rank", int) or settings.number("network.linear", int, 4)
    alpha = settings.number("network.linear_alpha", float, settings.number("network.alpha", float, 1.0))
    conv = settings.number("network.conv", int) or None
    conv_alpha = settings.number("network.conv_alpha", float, float(conv)) if conv else None
    here = _LIKE_LORA.get(kind)
    if here is None:
        rank, conv = min(rank, RANK), conv and min(conv, RANK)
        alpha, conv_alpha, here = float(rank), float(conv) if conv else None, "lora"
        words = f"{kind} does not exist here: a LoRA of rank {rank} in the same layers instead, which needs another rate"
        settings.unsupported("network.type", words)
        sizes = ("rank", "linear", "linear_alpha", "alpha", "conv", "conv_alpha", "lokr_full_rank", "lokr_factor")
        settings.unsupported([_NETWORK + name for name in sizes], f"lora_dim, lora_alpha: {rank}")
    targets, words, without = _layers(settings, conv is not None)
    lora = Lora(
        rank=rank,
        alpha=alpha if alpha > 0 else float(rank),
        targets=targets,
        conv_rank=conv,
        conv_alpha=conv_alpha,
        kind=here,
        neuron_dropout=settings.number("network.dropout", float, 0.0),
        rank_dropout=settings.number(_KWARGS + "rank_dropout", float, 0.0),
        module_dropout=settings.number(_KWARGS + "module_dropout", float, 0.0),
        text_targets="linear",
    )
    put_lora(draft, lora, networks)
    settings.say(DIFFERS if without else TAKEN, "network.type", f"lora_kind: {here}; {words}")
    settings.default("network.type", "lora", words, DIFFERS if without else TAKEN)
    settings.taken(["network.rank", "network.linear"], f"lora_dim: {rank}")
    if "network.rank" not in settings:
        settings.default("network.linear", 4, f"lora_dim: {rank}")
    settings.taken(["network.linear_alpha", "network.alpha"], f"lora_alpha: {lora.alpha:g}")
    if "network.alpha" not in settings:
        settings.default(
            "network.linear_alpha", 1.0, f"lora_alpha: {lora.alpha:g}, so that the update is {lora.alpha:g} / {rank} of B A x"
        )
    settings.taken("network.conv", f"lora_conv_dim: {conv}" if conv else "no convolutions have a LoRA")
    settings.taken("network.conv_alpha", f"lora_conv_alpha: {conv_alpha:g}" if conv_alpha else "no convolutions have a LoRA")
    settings.taken("network.dropout", f"lora_neuron_dropout: {lora.neuron_dropout:g}")
    settings.taken(_KWARGS + "rank_dropout", f"lora_rank_dropout: {lora.rank_dropout:g}")
    settings.taken(_KWARGS + "module_dropout", f"lora_module_dropout: {lora.module_dropout:g}")
    start = settings.text("network.pretrained_lora_path") or settings.text("model.lora_path")
    if start:
        draft.flags["start_from"] = start
    settings.taken("network.pretrained_lora_path", f"--weight BASE,{start}")
    settings.taken("model.lora_path", f"--weight BASE,{start}")
    settings.unsupported([_KWARGS + name for name in NETWORK_KWARGS], "the layers and ranks above; LoRA alone")


def _layers(settings: Settings, convolutions: bool) -> tuple[Any, str, tuple[str, ...]]:
    """lora_targets, in words, and what can have no LoRA here: all linear layers and 1 x 1 convolutions of the UNet, and all other
    convolutions where conv is given."""
    only, ignored = (_words_of(settings, _KWARGS + name) for name in ("only_if_contains", "ignore_if_contains"))
    classes = _words_of(settings, _KWARGS + "target_lin_modules")
    in_transformers = bool(classes) and all(
        name in ("Transformer2DModel", "Attention", "BasicTransformerBlock") for name in classes
    )

    def wanted(name: str) -> bool:
        full = f"lora_unet.{name}"
        if name.endswith(_WIDE) and not convolutions or any(word in full for word in ignored):
            return False
        if in_transformers and ".attentions." not in name:
            return False
        return not only or any(word in full or word in full.replace(".", "_") for word in only)

    chosen = choose_layers(wanted)
    if not chosen.count:
        raise UserError(
            f"{settings.where}: only_if_contains is {shown(only)}, which leaves no layer of SDXL's UNet that can have a LoRA"
        )
    settings.taken([_KWARGS + name for name in ("only_if_contains", "ignore_if_contains")], chosen.words)
    settings.say(TAKEN if in_transformers else UNSUPPORTED, _KWARGS + "target_lin_modules", chosen.words)
    return chosen.targets, chosen.words, tuple(name for name in chosen.without if name in WITHOUT)


def _words_of(settings: Settings, name: str) -> list[str]:
    value = settings.values.get(name) or []
    return [str(part) for part in value] if isinstance(value, list) else [str(value)]


def _optimizer(settings: Settings, draft: Draft, networks: list[str]) -> None:
    given = settings.text("train.optimizer") or "adamw"
    short = given.lower()
    names = [name for name in settings.values if name.startswith(_OPTIMIZER)]
    arguments = {name[len(_OPTIMIZER) :]: settings.values[name] for name in names}
    defaults: dict[str, Any] = {"relative_step": False, "scale_parameter": False, "warmup_init": False}
    if short.startswith(("adam", "prodigy")):
        defaults = {"eps": 1e-6} | ({"weight_decay": 0.0} if short in ("adam", "adam8bit", "adam8", "adamw8") else {})
    found = put_optimizer(draft, given, arguments, defaults)
    settings.say(found.outcome, "train.optimizer", found.words)
    settings.default("train.optimizer", "adamw", found.words)
    if defaults.get("eps") and found.name in ("AdamW", "Prodigy"):
        settings.default(_OPTIMIZER + "eps", "1e-6", "optimizer_config: eps: 1e-6")
    for name in names:
        argument = name[len(_OPTIMIZER) :]
        if argument in found.taken:
            settings.taken(name, f"optimizer_config: {found.taken[argument]}")
        else:
            settings.unsupported(name, found.refused.get(argument, "left out"))
    settings.taken("train.optimizer_params", "none")
    optim = draft.tree["optim"]
    if found.name == "Prodigy" and optim["base_learning_rate"] < 0.1:
        draft.notes.append(
            f"Prodigy's rate is a factor around 1, but this is {optim['base_learning_rate']:g}: it learns next to nothing, there as here."
        )
    if found.name == "Adafactor" and optim["optimizer_config"]["params"]["relative_step"]:
        optim["base_learning_rate"] = None
        optim.pop("rates", None)
        if "unet" not in networks:
            draft.put("optim.rates.unet", 0.0)


def _schedule(settings: Settings, draft: Draft, steps: Steps) -> None:
    """Those of torch.optim.lr_scheduler, over all steps. They take a step each micro-batch."""
    names = [name for name in settings.values if name.startswith(_SCHEDULER)]
    name = (settings.text("train.lr_scheduler") or "constant").lower()
    if draft.tree["optim"]["base_learning_rate"] is None:
        draft.tree["optim"]["scheduler_config"] = None
        settings.taken(["train.lr_scheduler", *names], "Adafactor's relative step has no schedule")
        return
    rate = draft.tree["optim"]["base_learning_rate"]
    least = settings.number(_SCHEDULER + "eta_min", float, 0.0)
    start, end = (
        settings.number(_SCHEDULER + "start_factor", float, 1 / 3),
        settings.number(_SCHEDULER + "end_factor", float, 1.0),
    )
    warmup, more = 0, ""
    if name == "constant_with_warmup":
        warmup = max(1, int(settings.number(_SCHEDULER + "num_warmup_steps", float, 1000) / steps.accumulated))
        settings.default(_SCHEDULER + "num_warmup_steps", 1000, f"warmup_steps: {warmup}")
    if name == "linear" and end >= start:
        share = min(0.99, max(0.0, 2 * (1 - (start + end) / 2)))
        outcome, words = put_schedule(draft, "constant", 0, share)
        outcome, more = (
            UNSUPPORTED,
            f"there the rate rises from {start:g} to {end:g} of lr over all steps; here a warm-up of as high a mean: ",
        )
    elif name == "linear":
        outcome, words = put_schedule(draft, "linear", final_factor=end / start if start else end)
        outcome, more = (TAKEN, "") if start == 1 else (DIFFERS, f"from lr instead of {start:g} lr; ")
    elif name in ("cosine", "cosine_with_restarts"):
        outcome, words = put_schedule(draft, "cosine", final_factor=least / rate if rate else 0.0)
        more = "one cosine over all steps: its restart comes at the end; " if name == "cosine_with_restarts" else ""
    else:
        outcome, words = put_schedule(draft, name, warmup)
    settings.say(outcome, "train.lr_scheduler", more + words)
    known = {"cosine": ["eta_min"], "cosine_with_restarts": ["eta_min"], "constant_with_warmup": ["num_warmup_steps"]}
    known["linear"] = ["start_factor", "end_factor"]
    settings.say(outcome, [_SCHEDULER + argument for argument in known.get(name, [])], words)
    factor = settings.number(_SCHEDULER + "factor", float, 1.0)
    if name == "constant" and factor != 1:
        settings.unsupported(_SCHEDULER + "factor", f"1 from the beginning, not {factor:g} until the end")
    settings.taken([_SCHEDULER + "factor", _SCHEDULER + "total_iters"], "over all steps")
    settings.unsupported(names, "the schedule has no such argument: left out")
    settings.taken("train.lr_scheduler_params", "none")


def _average(settings: Settings, draft: Draft) -> None:
    names = [_AVERAGE + name for name in ("ema_decay", "use_feedback", "param_multiplier")]
    settings.off("train.ema_config")
    if not settings.flag(_AVERAGE + "use_ema"):
        settings.off(_AVERAGE + "use_ema")
        settings.taken(names, "acts with use_ema alone")
        return
    decay = settings.number(names[0], float, 0.999)
    draft.put("optim.ema_decay", decay)
    words = f"optim.ema_decay: {decay:g}, at most (1 + t) / (10 + t) in update t; there {decay:g} from the beginning"
    settings.taken(_AVERAGE + "use_ema", "what is saved is the average, as there")
    settings.differs(names[0], words)
    settings.default(names[0], 0.999, words, DIFFERS)
    if settings.flag(names[1]):
        settings.unsupported(names[1], "the average does not act on the weights that train")
    settings.off(names[1])
    if settings.number(names[2], float, 1.0) != 1:
        settings.unsupported(names[2], "1: weights only shrink by weight_decay")
    settings.taken(names[2], "1, as here")


def _loss(settings: Settings, draft: Draft) -> float:
    """Returns how many times as large the loss is there."""
    v = settings.flag("model.is_v_pred")
    settings.taken("model.is_v_pred", put_prediction(draft, v, False))
    kind, scale = settings.text("train.loss_type") or "mse", 1.0
    if kind in ("pseudo_huber", "mae"):
        threshold, scale = 0.01 if kind == "pseudo_huber" else 0.001, 0.5
        for key, value in (("loss_type", "smooth_l1"), ("huber_c", threshold), ("huber_schedule", "constant")):
            put_loss(draft, key, value)
        words = f"loss_type: smooth_l1, huber_c: {threshold:g}, constant"
        settings.say(
            TAKEN if kind == "pseudo_huber" else DIFFERS,
            "train.loss_type",
            words + ("; twice as large" if kind == "pseudo_huber" else ": |error| but for errors as small, twice"),
        )
    elif kind == "mse":
        settings.taken("train.loss_type", "l2, as here")
    settings.unsupported("train.loss_type", "l2 instead")
    fixed, gamma = settings.number("train.snr_gamma", float, 0.0), settings.number("train.min_snr_gamma", float, 0.0)
    if fixed > 0:
        words = put_weighting(draft, "UnitWeighting")
        settings.taken("train.snr_gamma", f"{words}, the same but for the factor {fixed:g}")
        settings.taken("train.min_snr_gamma", "snr_gamma counts instead, there as here")
        scale *= fixed
    elif gamma > 0:
        words = put_weighting(draft, "MinSNRWeighting", gamma)
        settings.say(
            DIFFERS if v else TAKEN, "train.min_snr_gamma", words + ("; divided by SNR + 1 for v, there by SNR" if v else "")
        )
    else:
        put_weighting(draft, "VWeighting" if v else "EpsWeighting")
    settings.off(["train.snr_gamma", "train.min_snr_gamma"])
    return scale


def _clipping(settings: Settings, draft: Draft, scale: float) -> None:
    """`scale`: how many times as large gradients are there."""
    if (settings.text("train.optimizer") or "").lower() == "adafactor":
        settings.taken("train.max_grad_norm", "gradients are not clipped with adafactor, there as here")
        return
    norm = settings.number("train.max_grad_norm", float, 1.0)
    draft.flags |= {"clip_grad": True, "max_grad_norm": round(norm / scale, 6)}
    words = f"--clip_grad True --max_grad_norm {norm / scale:g}"
    words += "" if scale == 1 else f", as gradients are {scale:g} times as large there"
    settings.taken("train.max_grad_norm", words)
    settings.default("train.max_grad_norm", "1.0", words)


def _noise(settings: Settings, draft: Draft) -> None:
    offset = settings.number("train.noise_offset", float, 0.0)
    if offset < 0:
        settings.differs("train.noise_offset", f"{put_loss(draft, 'offset_noise_level', -offset)}: its sign has no effect")
    elif offset:
        settings.taken("train.noise_offset", put_loss(draft, "offset_noise_level", offset))
    settings.off("train.noise_offset")
    # index i of its list is level 999 - i, and the first and the last two of a range are not drawn
    first, last = settings.number("train.min_denoising_steps", int, 0), settings.number("train.max_denoising_steps", int, 999)
    least, most = (0 if last >= 999 else max(0, 1001 - last)), (1000 if first <= 0 else max(1, 999 - first))
    if least >= most:
        raise UserError(f"{settings.where}: min_denoising_steps {first} and max_denoising_steps {last} leave no noise level")
    for key, value, usual in (("min_timestep", least, 0), ("max_timestep", most, 1000)):
        if value != usual:
            draft.put(TIMESTEPS + key, value)
    settings.taken("train.min_denoising_steps", f"sigma_sampler_config: max_timestep: {most}: steps count from pure noise")
    settings.taken("train.max_denoising_steps", f"sigma_sampler_config: min_timestep: {least}: steps count from pure noise")
    way = settings.text("train.content_or_style") or "balanced"
    if way != "balanced":
        noisy = way == "content"
        words = f"all noise levels alike; there {'high' if noisy else 'low'} ones are drawn more often (a cubic density)"
        settings.unsupported("train.content_or_style", words)
    settings.taken("train.content_or_style", "all noise levels alike, as here")
