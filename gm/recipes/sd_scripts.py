"""Settings of sd-scripts (kohya-ss, sdxl_train_network.py) by the names of its arguments -> this suite's.

All of its forms come here: a TOML or a command line as they are, the GUI's JSON by way of kohya_gui.py, a LoRA's metadata by way of
lora_metadata.py. Photos, captions, shapes and updates are sd_scripts_data.py, loss and noise sd_scripts_loss.py; what needs no thought is the table of
sd_scripts_words.py. The facts are those of its train_network.py, library/train_util.py and networks/lora.py.
"""

from typing import Optional

from gm.config.bounds import LARGEST_RANK
from gm.errors import UserError
from gm.recipes.command_line import say_launcher
from gm.recipes.draft import DIFFERS, TAKEN, UNSUPPORTED, Draft, Settings
from gm.recipes.optimizers import put_optimizer, put_schedule
from gm.recipes.parts import Lora, put_lora, put_rates
from gm.recipes.sd_scripts_data import put_data
from gm.recipes.sd_scripts_loss import put_all_of_loss, put_noise
from gm.recipes.sd_scripts_words import SAID, say_words
from gm.recipes.updates import Hints

RANK = 16  # in place of a kind of network whose rank says nothing about a LoRA's
NETWORK, OPTIMIZER, SCHEDULER = "network_args.", "optimizer_args.", "lr_scheduler_args."
PARTS = {"network_args": NETWORK, "optimizer_args": OPTIMIZER, "lr_scheduler_args": SCHEDULER}
_LYCORIS_AS = {"lora": "lora", "locon": "lora", "dora": "dora"}
_BLOCKS = ("base", *(f"input_blocks.{i}" for i in range(9)), *(f"middle_block.{i}" for i in range(3)))
BLOCKS = (*_BLOCKS, *(f"output_blocks.{i}" for i in range(9)), "out")  # networks/lora.py, get_block_index
OTHER_MODELS = ("flux", "sd3", "lumina", "chroma", "hunyuan", "anima", "qwen")


def expanded(values: dict) -> dict:
    """The settings with lists of NAME=VALUE taken apart: network_args.conv_dim."""
    result = {}
    for name, value in values.items():
        result[name] = value
        if name not in PARTS or value in (None, "", []):
            continue
        parts = value if isinstance(value, list) else str(value).split()
        for part in parts:
            key, _, said = str(part).replace('"', "").replace("'", "").partition("=")
            result[PARTS[name] + key.strip()] = said.strip()
    return result


def read_sd_scripts(settings: Settings, draft: Draft, hints: Hints) -> None:
    """All settings of one training of a LoRA for SDXL, `expanded`. UserError for that of another model."""
    _require_sdxl(settings)
    networks = _rates(settings, draft)
    _network(settings, draft, networks)
    adaptive = _optimizer(settings, draft)
    total = put_data(settings, draft, hints)
    _schedule(settings, draft, total, adaptive)
    put_all_of_loss(settings, draft)
    put_noise(settings, draft)
    settings.taken(list(PARTS), "see each of them")
    say_launcher(settings)
    say_words(settings)
    for name, (outcome, words) in SAID.items():
        settings.say(outcome, name, words)
    settings.close()


def _require_sdxl(settings: Settings) -> None:
    module = (settings.text("network_module") or "").lower()
    other = next((name for name in OTHER_MODELS if module.endswith(f"lora_{name}")), None)
    if settings.flag("v2") or other:
        raise UserError(
            f"{settings.where} is for {'Stable Diffusion 2' if settings.flag('v2') else other}, not for SDXL: give a recipe of "
            "sdxl_train_network.py"
        )
    settings.taken("v2", "not Stable Diffusion 2, as here")


def _rates(settings: Settings, draft: Draft) -> list[str]:
    """The rates, and which networks have a LoRA for them."""
    usual = settings.number("learning_rate", float, 2e-6)
    unet = settings.number("unet_lr", float) or usual
    texts = settings.numbers("text_encoder_lr") or [usual]
    texts = [texts[0], texts[min(1, len(texts) - 1)]]
    only_unet = settings.flag("network_train_unet_only") or _preset(settings).startswith("unet-")
    only_text = settings.flag("network_train_text_encoder_only")
    networks = ["unet"]
    if not only_unet:
        networks += [f"text_encoder_{i + 1}" for i, rate in enumerate(texts) if rate > 0]
    if settings.flag("cache_text_encoder_outputs") and len(networks) > 1:
        networks = ["unet"]
        settings.taken("cache_text_encoder_outputs", "the text encoders stay frozen, and prompts are always embedded once")
    put_rates(draft, unet, [rate if f"text_encoder_{i + 1}" in networks else None for i, rate in enumerate(texts)])
    settings.taken("unet_lr", f"optim.base_learning_rate: {unet:g}")
    if "unet_lr" in settings:
        settings.taken("learning_rate", f"of what has no rate of its own; the UNet has {unet:g}")
    settings.taken("learning_rate", f"optim.base_learning_rate: {unet:g}")
    settings.default("learning_rate", f"{usual:g}", f"optim.base_learning_rate: {unet:g}")
    if len(networks) == 1:
        settings.taken("text_encoder_lr", "the text encoders have no LoRA")
    else:
        settings.taken("text_encoder_lr", f"optim.rates: {', '.join(f'{r:g}' for r in texts)} for the two text encoders")
        settings.default("text_encoder_lr", "learning_rate", f"both text encoders train too, at {texts[0]:g}")
    settings.taken("network_train_unet_only", "LoRA in the UNet alone" if only_unet else "off: the text encoders may train")
    if only_text:
        draft.put("optim.rates.unet", 0.0)
        settings.taken("network_train_text_encoder_only", "optim.rates.unet: 0")
    settings.off("network_train_text_encoder_only")
    return networks


def _network(settings: Settings, draft: Draft, networks: list[str]) -> None:
    module = settings.text("network_module") or "networks.lora"
    rank, alpha = settings.number("network_dim", int, 4), settings.number("network_alpha", float, 1.0)
    conv = settings.number(NETWORK + "conv_dim", int)
    of_conv = 1.0 if conv and "lycoris" not in module else None  # LyCORIS': as the others
    conv_alpha = settings.number(NETWORK + "conv_alpha", float, of_conv)
    algo = (settings.text(NETWORK + "algo") or ("lora" if "lycoris" in module else "")).lower()
    if not algo:
        algo = module.rpartition(".")[2].replace("lora_fa", "lora-fa")
    kind = "dora" if settings.flag(NETWORK + "dora_wd") else _LYCORIS_AS.get(algo)
    targets = _targets(settings, module, conv)
    if kind is None:
        rank = min(rank, RANK)
        alpha, conv, conv_alpha, kind = float(rank), conv and min(conv, rank), conv and float(min(conv, rank)), "lora"
        words = f"{algo} does not exist here: a LoRA of rank {rank} in the same layers instead, which needs another rate"
        settings.unsupported(["network_module", NETWORK + "algo"], words)
        settings.unsupported(
            ["network_dim", "network_alpha", NETWORK + "conv_dim", NETWORK + "conv_alpha"], f"lora_dim, lora_alpha: {rank}"
        )
    elif rank > LARGEST_RANK:
        rank = LARGEST_RANK
        settings.differs("network_dim", f"lora_dim: {rank}, the largest")
    if targets != "all":
        conv = conv_alpha = None
    lora = Lora(
        rank=rank,
        alpha=alpha if alpha > 0 else float(rank),
        targets=targets,
        conv_rank=conv,
        conv_alpha=conv_alpha,
        kind=kind,
        rslora=settings.flag(NETWORK + "rs_lora"),
        neuron_dropout=settings.number("network_dropout", float, settings.number(NETWORK + "dropout", float, 0.0)),
        rank_dropout=settings.number(NETWORK + "rank_dropout", float, 0.0),
        module_dropout=settings.number(NETWORK + "module_dropout", float, 0.0),
    )
    put_lora(draft, lora, networks)
    settings.taken("network_module", f"lora_kind: {kind}, lora_targets: {targets}")
    settings.taken(NETWORK + "algo", f"lora_kind: {kind}")
    settings.taken(NETWORK + "dora_wd", "lora_kind: dora" if kind == "dora" else "off, as here")
    settings.taken("network_dim", f"lora_dim: {lora.rank}")
    settings.default("network_dim", 4, "lora_dim: 4")
    settings.taken("network_alpha", f"lora_alpha: {lora.alpha:g}")
    settings.default("network_alpha", 1, f"lora_alpha: {lora.alpha:g}")
    settings.default("network_module", "networks.lora", f"lora_targets: {targets}")
    settings.taken(NETWORK + "conv_dim", f"lora_conv_dim: {conv}" if conv else "no convolutions have a LoRA")
    settings.taken(NETWORK + "conv_alpha", f"lora_conv_alpha: {conv_alpha:g}" if conv_alpha else "no convolutions have a LoRA")
    settings.taken(["network_dropout", NETWORK + "dropout"], f"lora_neuron_dropout: {lora.neuron_dropout:g}")
    settings.taken(NETWORK + "rank_dropout", f"lora_rank_dropout: {lora.rank_dropout:g}")
    settings.taken(NETWORK + "module_dropout", f"lora_module_dropout: {lora.module_dropout:g}")
    settings.taken(NETWORK + "rs_lora", f"lora_rslora: {lora.rslora}")
    _blocks(settings, draft, lora)
    _further_network(settings, draft)


_PRESETS = {  # of LyCORIS (its config.py) -> lora_targets, and what it has that has no LoRA here
    "full": ("all", "the first and last convolution and the time embedding"),
    "full-lin": ("linear", "linear layers of the residual blocks and the time embedding"),
    "attn-mlp": ("linear", ""),
    "attn-only": ("attention", ""),
    "unet-only": ("all", "the first and last convolution and the time embedding"),
    "unet-transformer-only": ("linear", ""),
}


def _preset(settings: Settings) -> str:
    """Of LyCORIS; empty where none is given."""
    return (settings.text(NETWORK + "preset") or "").lower()


def _targets(settings: Settings, module: str, conv: Optional[int]) -> str:
    """Which layers: sd-scripts' own, or those of a preset of LyCORIS."""
    if "lycoris" not in module:
        return "all" if conv else "linear"
    preset = _preset(settings) or "full"
    targets, without = _PRESETS.get(preset, ("all", ""))
    words = f"lora_targets: {targets}" + (f"; {without} have none" if without else "")
    if preset not in _PRESETS:
        settings.unsupported(NETWORK + "preset", f"{words} instead")
    settings.say(DIFFERS if without else TAKEN, NETWORK + "preset", words)
    settings.default(NETWORK + "preset", "full", words, DIFFERS)
    return targets


def _blocks(settings: Settings, draft: Draft, lora: Lora) -> None:
    """block_dims and block_alphas, 23 numbers, as lora_parts."""
    dims, alphas = (_numbers(settings, NETWORK + name) for name in ("block_dims", "block_alphas"))
    names = [NETWORK + name for name in ("block_dims", "block_alphas")]
    if not dims and not alphas:
        settings.unsupported(names, "not 23 numbers: one rank for all blocks")
        return
    parts, without = [], []
    for number, block in enumerate(BLOCKS):
        if block in ("base", "out"):
            continue
        dim, alpha = (int(dims[number]) if dims else lora.rank), (alphas[number] if alphas else lora.alpha)
        if dim == 0 or alpha == 0:
            without.append(block)
        elif (dim, alpha) != (lora.rank, lora.alpha):
            parts.append({"pattern": f"{block}.*", "dim": dim, "alpha": alpha})
    if parts:
        draft.put("model.params.network_config.params.lora_parts", parts)
    words = f"lora_parts: {len(parts)} blocks with numbers of their own"
    if without:
        settings.differs(names, f"{words}; {', '.join(without)} should have none, and have the usual rank here")
    settings.taken(names, words)


def _numbers(settings: Settings, name: str) -> Optional[list[float]]:
    """23 numbers separated by commas, or None."""
    try:
        found = [float(part) for part in (settings.text(name) or "").split(",")]
    except ValueError:
        return None
    return found if len(found) == len(BLOCKS) else None


def _further_network(settings: Settings, draft: Draft) -> None:
    ratio = settings.number(NETWORK + "loraplus_lr_ratio", float) or settings.number(NETWORK + "loraplus_unet_lr_ratio", float)
    plus = [NETWORK + f"loraplus_{name}lr_ratio" for name in ("", "unet_", "text_encoder_")]
    if ratio:
        draft.put("optim.lora_plus_ratio", ratio)
        of_text = settings.number(plus[2], float)
        if of_text and of_text != ratio:
            settings.differs(plus[2], f"lora_plus_ratio: {ratio:g}, one ratio for all networks")
    elif settings.number(plus[2], float):
        settings.unsupported(plus[2], "one ratio for all networks: none")
    settings.taken(plus, f"optim.lora_plus_ratio: {ratio or 1:g}")
    norm = settings.number("scale_weight_norms", float)
    if norm:
        draft.put("optim.scale_weight_norms", norm)
        settings.taken("scale_weight_norms", f"optim.scale_weight_norms: {norm:g}")
    settings.off("scale_weight_norms")
    weights = settings.text("network_weights")
    if weights:
        draft.flags["start_from"] = weights
        settings.taken("network_weights", f"--weight BASE,{weights}")
        if settings.flag("dim_from_weights"):
            settings.differs(
                "dim_from_weights", "the rank must be that of the file: set lora_dim and lora_alpha if they differ"
            )


def _optimizer(settings: Settings, draft: Draft) -> bool:
    """Returns whether the optimizer makes its own rate, so that there may be none and no schedule."""
    given = settings.text("optimizer_type") or "AdamW"
    if settings.flag("use_8bit_adam"):
        given = "AdamW8bit"
    if settings.flag("use_lion_optimizer"):
        given = "Lion"
    names = [name for name in settings.values if name.startswith(OPTIMIZER)]
    arguments = {name[len(OPTIMIZER) :]: settings.values[name] for name in names}
    found = put_optimizer(draft, given, arguments)
    shorter = ["use_8bit_adam", "use_lion_optimizer"]
    settings.say(found.outcome, ["optimizer_type", *shorter], found.words)
    settings.default("optimizer_type", "AdamW", found.words)
    for argument in arguments:
        if argument in found.refused:
            settings.unsupported(OPTIMIZER + argument, found.refused[argument])
        else:
            settings.taken(OPTIMIZER + argument, f"optimizer_config: {found.taken.get(argument, '')}")
    params = draft.tree["optim"]["optimizer_config"]["params"]
    relative = found.name == "Adafactor" and bool(params.get("relative_step"))
    if found.name == "Prodigy":
        _one_rate(draft, given, found.outcome == UNSUPPORTED)
    if relative:
        draft.tree["optim"]["base_learning_rate"] = None
        draft.tree["optim"].pop("rates", None)
        draft.notes.append("Adafactor with a relative step makes its own rate: learning rates and schedule do not count.")
    return relative


def _one_rate(draft: Draft, given: str, other: bool) -> None:
    """Prodigy has one step size, and one rate: the UNet's."""
    optim = draft.tree["optim"]
    rates = optim.pop("rates", {})
    different = {rate for rate in rates.values() if rate} - {optim["base_learning_rate"]}
    if rates.get("unet") == 0.0:
        draft.put("optim.rates.unet", 0.0)
    if different:
        draft.notes.append(f"{given} has one rate for all networks: {optim['base_learning_rate']:g}, the UNet's.")
    if other:
        draft.notes.append(f"Prodigy stands in for {given}: watch the first hundred updates, or train with AdamW at 1e-4.")


def _schedule(settings: Settings, draft: Draft, total: int, relative: bool) -> None:
    name = settings.text("lr_scheduler") or "constant"
    other = settings.text("lr_scheduler_type")
    names = ["lr_scheduler", "lr_warmup_steps", "lr_scheduler_num_cycles", "lr_scheduler_power", "lr_scheduler_min_lr_ratio"]
    names += ["lr_scheduler_type", *(n for n in settings.values if n.startswith(SCHEDULER))]
    if relative:
        draft.tree["optim"]["scheduler_config"] = None
        settings.taken(names, "Adafactor's relative step has no schedule, there as here")
        return
    warmup = settings.values.get("lr_warmup_steps", 0)
    steps = settings.number("lr_warmup_steps", float, 0.0)
    share = steps if "." in str(warmup) and 0 < steps < 1 else 0.0
    if (other or name) == "constant" and steps:
        settings.unsupported("lr_warmup_steps", "sd-scripts refuses a warm-up with 'constant': there is none")
        steps = share = 0
    cycles, power = settings.number("lr_scheduler_num_cycles", float), settings.number("lr_scheduler_power", float)
    least = settings.number("lr_scheduler_min_lr_ratio", float)
    outcome, words = put_schedule(draft, other or name, int(steps), share, cycles, power, least)
    if other:
        _torch_schedule(settings, other, total)
        settings.taken("lr_scheduler", f"lr_scheduler_type {other} counts instead, there as here")
    settings.say(outcome, ["lr_scheduler", "lr_scheduler_type"], words)
    warms = f"warmup_share: {share:g}" if share else f"warmup_steps: {int(steps)}"
    settings.taken("lr_warmup_steps", warms if steps else "no warm-up")
    settings.taken(
        "lr_scheduler_num_cycles", f"num_cycles: {int(cycles or 1)}" if "restarts" in name else "not of this schedule"
    )
    settings.taken("lr_scheduler_power", f"power: {power or 1:g}" if name == "polynomial" else "not of this schedule")
    settings.taken("lr_scheduler_min_lr_ratio", f"final_factor: {least or 0:g}")


def _torch_schedule(settings: Settings, name: str, total: int) -> None:
    """Arguments of a class of torch.optim.lr_scheduler."""
    period = settings.number(SCHEDULER + "T_max", float)
    if period and name == "CosineAnnealingLR":
        words = f"the cosine falls over all {total} updates; there it falls over {period:g} and rises again"
        settings.say(TAKEN if period == total else DIFFERS, SCHEDULER + "T_max", words)
    if settings.number(SCHEDULER + "eta_min", float, 0.0) == 0:
        settings.taken(SCHEDULER + "eta_min", "falls to 0")
    settings.unsupported(
        [n for n in settings.values if n.startswith(SCHEDULER)], "the schedule has no such argument: left out"
    )
