"""OneTrainer's optimizer and schedule -> this suite's: modules/util/create.py and lr_scheduler_util.py there."""

from gm.config import table as t
from gm.recipes.draft import DIFFERS, TAKEN, UNSUPPORTED, Draft, Settings
from gm.recipes.optimizers import put_optimizer, put_schedule

_OF = "optimizer."
_DEFAULTS = {  # where they are not those of the optimizer's library
    "ADAM": {"weight_decay": 0.0},
    "ADAM_8BIT": {"weight_decay": 0.0},
    "ADAFACTOR": {"scale_parameter": False, "relative_step": False, "warmup_init": False},
    "PRODIGY": {"decouple": False},
    "LION_8BIT": {"beta2": 0.999},
}
_ADAM = ("beta1", "beta2", "eps", "weight_decay")
_USED = {  # optimizer here -> what it has of OneTrainer's arguments
    "AdamW": _ADAM,
    "Prodigy": (*_ADAM, "beta3", "decouple", "use_bias_correction", "safeguard_warmup", "d0", "d_coef", "growth_rate"),
    "Adafactor": ("eps", "eps2", "clip_threshold", "decay_rate", "beta1", "weight_decay", "scale_parameter", "relative_step")
    + ("warmup_init",),
    "Lion": ("beta1", "beta2", "weight_decay"),
}
_IN_PLACE = (
    "weight_decay",
    "use_bias_correction",
    "safeguard_warmup",
    "d0",
    "d_coef",
)  # still meant where another one stands in
_MEMORY = (
    "foreach",
    "fused",
    "fused_back_pass",
    "capturable",
    "differentiable",
    "stochastic_rounding",
    "min_8bit_size",
    "block_wise",
)
_MEMORY += ("is_paged", "optim_bits", "fsdp_in_use", "use_triton", "log_every", "compile", "quant_block_size")
_SCHEDULE_FREE = ("SCHEDULE_FREE_ADAMW", "SCHEDULE_FREE_SGD", "PRODIGY_PLUS_SCHEDULE_FREE")
# fields of TrainOptimizerConfig beside those above: of optimizers that are not here
_OTHER = (
    "adam_w_mode",
    "alpha",
    "bias_correction",
    "centered",
    "dampening",
    "initial_accumulator_value",
    "initial_accumulator",
)
_OTHER += (
    "lr_decay",
    "max_unorm",
    "momentum",
    "nesterov",
    "no_prox",
    "r",
    "weight_lr_power",
    "decoupled_decay",
    "fixed_decay",
)
_OTHER += (
    "weight_decouple",
    "rectify",
    "degenerated_to_sgd",
    "k",
    "xi",
    "n_sma_threshold",
    "ams_bound",
    "adanorm",
    "adam_debias",
)
_OTHER += ("cautious", "weight_decay_by_lr", "prodigy_steps", "use_speed", "split_groups", "split_groups_mean", "factored")
_OTHER += ("factored_fp32", "use_stableadamw", "use_cautious", "use_grams", "use_adopt", "d_limiter", "use_schedulefree")
_OTHER += ("use_orthograd", "nnmf_factor", "orthogonal_gradient", "use_atan2", "use_AdEMAMix", "beta3_ema", "alpha_grad")
_OTHER += (
    "beta1_warmup",
    "min_beta1",
    "Simplified_AdEMAMix",
    "kourkoutas_beta",
    "schedulefree_c",
    "ns_steps",
    "MuonWithAuxAdam",
)
_OTHER += ("muon_hidden_layers", "muon_adam_regex", "muon_adam_lr", "muon_te1_adam_lr", "muon_te2_adam_lr", "muon_adam_config")
_OTHER += (
    "rms_rescaling",
    "normuon_variant",
    "beta2_normuon",
    "low_rank_ortho",
    "ortho_rank",
    "accelerated_ns",
    "cautious_wd",
)
_OTHER += ("approx_mars", "auto_kappa_p")


def put_optimizer_and_schedule(settings: Settings, draft: Draft, total: int) -> None:
    """`total`: updates."""
    given = settings.text(_OF + "optimizer") or "ADAMW"
    arguments = {name: settings.values[_OF + name] for name in _arguments() if _OF + name in settings}
    trial = put_optimizer(Draft(), given, {})
    kept = _USED[trial.name] if trial.outcome != UNSUPPORTED else [n for n in _IN_PLACE if n in _USED[trial.name]]
    passed = {name: value for name, value in arguments.items() if name in kept}
    found = put_optimizer(draft, given, passed, _DEFAULTS.get(given, {}))
    settings.say(found.outcome, _OF + "optimizer", found.words)
    settings.default(_OF + "optimizer", "ADAMW", found.words)
    for name in passed:
        if name in found.taken:
            settings.taken(_OF + name, f"optimizer_config: {found.taken[name]}")
        elif name in found.refused:
            settings.unsupported(_OF + name, found.refused[name])
    _others(settings, given, found.outcome == UNSUPPORTED, found.name)
    relative = found.name == "Adafactor" and draft.tree["optim"]["optimizer_config"]["params"]["relative_step"]
    if found.name == "Prodigy":
        _one_rate(draft, given, found.outcome == UNSUPPORTED)
    if relative:
        draft.tree["optim"]["base_learning_rate"] = None
        draft.tree["optim"].pop("rates", None)
        draft.notes.append("Adafactor with a relative step makes its own rate: learning rates and schedule do not count.")
    _schedule(settings, draft, given, total, bool(relative))
    _average(settings, draft)


def _arguments() -> list[str]:
    """Every argument that one of the optimizers here has."""
    return list(dict.fromkeys(name for names in _USED.values() for name in names))


def _others(settings: Settings, given: str, stands_in: bool, here: str) -> None:
    """The arguments of other optimizers, and those that do not change an update."""
    settings.taken([_OF + name for name in _MEMORY], "of memory and speed there: has no effect on the result")
    for name in ("amsgrad", "maximize"):
        if settings.flag(_OF + name) and here == "AdamW" and not stands_in:
            settings.unsupported(_OF + name, "AdamW without it")
        settings.off(_OF + name)
    if settings.number(_OF + "percentile_clipping", float, 100) != 100:
        settings.unsupported(_OF + "percentile_clipping", "--max_grad_norm clips instead")
    settings.off(_OF + "percentile_clipping")
    slices = settings.number(_OF + "slice_p", int, 1)
    if slices > 1 and here == "Prodigy":
        settings.differs(_OF + "slice_p", f"1: d is estimated from all numbers, not from each {slices}th")
    settings.taken(_OF + "slice_p", f"has no effect on {given}")
    words = f"of {given}, which is not here"
    for name in (*_arguments(), *_OTHER):
        if not stands_in:
            settings.taken(_OF + name, f"has no effect on {given}")
        elif str(settings.values.get(_OF + name)).lower() == "false":
            settings.off(_OF + name)
        else:
            settings.unsupported(_OF + name, words)


def _one_rate(draft: Draft, given: str, stands_in: bool) -> None:
    """Prodigy has one step size for all networks."""
    optim = draft.tree["optim"]
    rates = optim.pop("rates", {})
    if rates.get("unet") == 0.0:
        draft.put("optim.rates.unet", 0.0)
    if {rate for rate in rates.values() if rate} - {optim["base_learning_rate"]}:
        draft.notes.append(f"{given} has one rate for all networks: {optim['base_learning_rate']:g}, the UNet's.")
    if stands_in:
        draft.notes.append(f"Prodigy stands in for {given}: watch the first hundred updates, or train with AdamW at 1e-4.")


def _schedule(settings: Settings, draft: Draft, given: str, total: int, relative: bool) -> None:
    names = ["learning_rate_scheduler", "learning_rate_warmup_steps", "learning_rate_cycles", "learning_rate_min_factor"]
    name = settings.text(names[0]) or "CONSTANT"
    if relative:
        draft.tree["optim"]["scheduler_config"] = None
        settings.taken(names, "Adafactor's relative step has no schedule, there as here")
    elif given in _SCHEDULE_FREE:
        draft.target("optim.scheduler_config", t.CONSTANT)
        settings.taken(names, f"{given} has a constant rate without a warm-up, whatever is given")
    else:
        _falling(settings, draft, name, total)
    custom = ["custom_learning_rate_scheduler", "scheduler_params"]
    if name == "CUSTOM":
        settings.unsupported(custom, "a constant rate instead")
    settings.taken(custom, "acts with CUSTOM alone")


def _falling(settings: Settings, draft: Draft, name: str, total: int) -> None:
    """Its factors are those of this suite's schedules; a warm-up is micro-batches, up to 1 a share of the updates."""
    accumulated = settings.number("gradient_accumulation_steps", int, 1)
    given, cycles = (
        settings.number("learning_rate_warmup_steps", float, 200.0),
        settings.number("learning_rate_cycles", float, 1.0),
    )
    least = settings.number("learning_rate_min_factor", float, 0.0)
    steps = int(given / accumulated) if given > 1 else int(max(given, 0.0) * total)
    words = f"warmup_steps: {steps}" + (f", {given:g} of {total} updates" if 0 < given <= 1 else "")
    words += f", {given:g} micro-batches / {accumulated} accumulated" if given > 1 and accumulated > 1 else ""
    settings.taken("learning_rate_warmup_steps", words)
    settings.default("learning_rate_warmup_steps", 200, words)
    once = name == "COSINE_WITH_RESTARTS" and cycles == 0.5 or name == "COSINE_WITH_HARD_RESTARTS" and cycles == 1
    outcome, words = put_schedule(draft, "cosine" if once else name, steps, 0.0, max(1, round(cycles)), None, least)
    restarts = name in ("COSINE_WITH_RESTARTS", "COSINE_WITH_HARD_RESTARTS") and not once
    if restarts and name == "COSINE_WITH_RESTARTS":
        outcome, words = DIFFERS, f"{words}; the rate jumps up again at a restart, where it rises along a cosine there"
    settings.say(outcome, "learning_rate_scheduler", words)
    if restarts:
        whole = cycles == max(1, round(cycles))
        settings.say(TAKEN if whole else DIFFERS, "learning_rate_cycles", f"num_cycles: {max(1, round(cycles))}")
    settings.taken("learning_rate_cycles", f"has no effect with {name}" if not once else "the cosine falls once")
    falls = name in ("LINEAR", "COSINE") or once
    if least and not falls and name != "CONSTANT":
        settings.unsupported("learning_rate_min_factor", "the rate falls to 0" if restarts else words)
    settings.taken("learning_rate_min_factor", f"final_factor: {least:g}" if falls else f"has no effect with {name}")


def _average(settings: Settings, draft: Draft) -> None:
    """Its moving average takes a step each `ema_update_step_interval` updates, this suite's each update."""
    names = ["ema_decay", "ema_update_step_interval"]
    if (settings.text("ema") or "OFF") == "OFF":
        settings.off("ema")
        settings.taken(names, "acts with ema alone")
        return
    decay, every = settings.number(names[0], float, 0.999), max(1, settings.number(names[1], int, 5))
    each = round(decay ** (1 / every), 8)
    draft.put("optim.ema_decay", each)
    words = f"optim.ema_decay: {each:g}" + ("" if every == 1 else f", each update; there {decay:g}, each {every} updates")
    settings.taken("ema", "optim.ema_decay: what is saved is the average, as there")
    settings.say(TAKEN if every == 1 else DIFFERS, names, words)
    settings.default("ema_update_step_interval", 5, words, TAKEN if every == 1 else DIFFERS)
    settings.default("ema_decay", 0.999, words, TAKEN if every == 1 else DIFFERS)
