"""YAML + --set -> a checked gm.config.types.Config. What may stand in a YAML is table.py, files and --set are tree.py.

All problems of types and names are collected and reported in one UserError; what fits together is checked after.
"""

import difflib
from dataclasses import replace
from typing import Any, Mapping, Optional, Sequence

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gm.config import table as t
from gm.config.tree import read_tree
from gm.config.types import (
    Config,
    DataConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    TextEncoderConfig,
    UNetConfig,
    VAEConfig,
    WeightingConfig,
)
from gm.errors import UserError, require_multiple


def load_config(path: str, overrides: Sequence[str] = (), training: bool = True, version: Optional[str] = None) -> Config:
    """Read, override, check. `training` demands the sections optim and data and a LoRA to train; `version`, the YAML's.

    Raises UserError naming the key, what was given and what is accepted.
    """
    tree = read_tree(path, overrides)
    try:
        plain = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"--config {path}: {str(error).splitlines()[0]}") from None
    problems: list[str] = []
    values = _section(plain, t.ROOT, "", problems)
    if problems:
        raise UserError(f"--config {path}: " + "; ".join(problems))
    if version is not None and version != values["version"]:
        raise UserError(f"--version {version} was given, but --config {path} is of {values['version']}: make them equal")
    model = _model(values["model"]["params"], path)
    lora = _lora(values["model"]["params"], path)
    optim = _optim(values["optim"], path) if values["optim"] else None
    data = _data(values["data"], model, path) if values["data"] else None
    if training:
        for section, found in (("optim", optim), ("data", data)):
            if found is None:
                raise UserError(f"--config {path} has no section {section!r}: training needs it, give a training YAML")
        if "unet" not in lora:
            raise UserError(
                f"--config {path} trains nothing: this suite trains LoRA, so network_config must have the target {t.UNET_LORA}"
            )
    return Config(
        version=values["version"],
        model=model,
        lora=lora,
        optim=optim,
        data=data,
        raw=OmegaConf.to_yaml(tree, resolve=True),
        weighting=_weighting(values["model"]["params"]["denoiser_config"]["params"]["weighting_config"]),
    )


def _near(word: Any, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(str(word), known, 1, 0.4)
    return f", did you mean {match[0]!r}?" if match else f": accepted are {', '.join(known)}"


def _section(given: Any, section: t.Section, at: str, problems: list[str]) -> dict[str, Any]:
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        problems.append(f"{at or 'the file'} must be a mapping, not {given!r}")
        return {}
    entries = section.entries
    problems += [f"unknown key {_at(at, key)!r}{_near(key, list(entries))}" for key in given if key not in entries]
    values = {}
    for key, entry in entries.items():
        if given.get(key) is None:
            if entry.default is t.REQUIRED:
                problems.append(f"{_at(at, key)!r} is missing")
            values[key] = entry.default
        else:
            values[key] = _value(given[key], entry, _at(at, key), problems)
    return values


def _at(at: str, key: Any) -> str:
    return f"{at}.{key}" if at else str(key)


def _value(given: Any, entry: t.Entry, at: str, problems: list[str]) -> Any:
    kind = entry.kind
    if isinstance(kind, t.Section):
        return _section(given, kind, at, problems)
    if isinstance(kind, t.OneOf):
        return _one_of(given, kind, at, problems)
    if isinstance(kind, t.Each):
        if not isinstance(given, list):
            problems.append(f"{at} must be a list, not {given!r}")
            return []
        return [_value(item, t.Entry(kind.kind), f"{at}.{i}", problems) for i, item in enumerate(given)]
    value = _typed(given, kind)
    if value is None:
        name = "a list of whole numbers" if kind == [int] else {int: "a whole number", float: "a number"}.get(kind, kind)
        words = {bool: "True or False", str: "text"}.get(kind, name)
        problems.append(f"{at} must be {words}, not {given!r}")
    elif entry.only and value not in entry.only:
        accepted = " or ".join(repr(v) for v in entry.only)
        problems.append(f"{at} is {value!r}, but only {accepted} is supported")
    elif isinstance(value, (int, float)) and value < entry.least:
        problems.append(f"{at} is {value}, but must be at least {entry.least:g}")
    elif kind == [int] and any(number < 1 for number in value):
        problems.append(f"{at} is {value}, but its numbers must be at least 1")
    return value


def _typed(given: Any, kind: Any) -> Any:
    """`given` as `kind`, or None. Numbers may be written as text (YAML reads 1e-4, without a point, as text)."""
    if kind is bool or isinstance(given, bool):
        return given if kind is bool and isinstance(given, bool) else None
    if kind is float:
        try:
            value = float(given)
        except (TypeError, ValueError):
            return None
        return value if value - value == 0 else None
    if kind is int:
        return given if isinstance(given, int) else None
    if kind == [int]:
        return list(given) if isinstance(given, list) and all(type(number) is int for number in given) else None
    return given if isinstance(given, kind) else None


def _one_of(given: Any, kind: t.OneOf, at: str, problems: list[str]) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not isinstance(given.get("target"), str):
        problems.append(f"{at} must be a mapping with 'target' and 'params'")
        return {}
    extra = dict(kind.extra)
    keys = ("target", "params", *extra)
    problems += [f"unknown key {_at(at, key)!r}{_near(key, keys)}" for key in given if key not in keys]
    target = given["target"]
    if target not in kind.targets:
        problems.append(f"{at}.target is {target!r}{_near(target, kind.targets)}")
        return {}
    beside = {key: given[key] for key in extra if key in given}
    params = _section(given.get("params"), t.Section(t.TARGETS[target]), f"{at}.params", problems)
    return {"target": target, "params": params, **_section(beside, t.Section(extra), at, problems)}


def _lora(params: Mapping[str, Any], path: str) -> dict[str, LoraConfig]:
    """The LoRA of every network that has one."""
    clip, open_clip = params["conditioner_config"]["params"]["emb_models"][:2]
    given = {
        "unet": params["network_config"]["params"],
        "text_encoder_1": clip["params"],
        "text_encoder_2": open_clip["params"],
    }
    found = {network: _one_lora(p, path) for network, p in given.items() if "lora_dim" in p}
    if len({replace(lora, dropout=0.0) for lora in found.values()}) > 1:
        raise UserError(
            f"--config {path}: the LoRA of the UNet and of the text encoders go into one file: give all the same lora_dim, "
            "lora_alpha, lora_merge_weights and only_save_lora"
        )
    return found


def _one_lora(params: Mapping[str, Any], path: str) -> LoraConfig:
    alpha = params["lora_alpha"] if params["lora_alpha"] is not None else float(params["lora_dim"])
    if alpha <= 0:
        raise UserError(f"--config {path}: lora_alpha is {alpha:g}, but must be above 0, else the LoRA does nothing")
    if params["lora_dropout"] >= 1:
        raise UserError(f"--config {path}: lora_dropout is {params['lora_dropout']:g}, but must be below 1")
    return LoraConfig(
        rank=params["lora_dim"],
        alpha=alpha,
        dropout=params["lora_dropout"],
        merge_weights=params["lora_merge_weights"],
        only_save_lora=params["only_save_lora"],
    )


def _model(params: Mapping[str, Any], path: str) -> ModelConfig:
    def require(holds: bool, message: str) -> None:
        if not holds:
            raise UserError(f"--config {path}: {message}")

    if params["scale_factor"] <= 0:
        raise UserError(f"--config {path}: scale_factor is {params['scale_factor']:g}, but must be above 0")
    encoders, size_width = _text_encoders(params["conditioner_config"]["params"]["emb_models"], path)
    u = params["network_config"]["params"]
    unet = UNetConfig(
        in_channels=u["in_channels"],
        out_channels=u["out_channels"],
        model_channels=u["model_channels"],
        num_res_blocks=u["num_res_blocks"],
        attention_resolutions=tuple(u["attention_resolutions"]),
        channel_mult=tuple(u["channel_mult"]),
        num_head_channels=u["num_head_channels"],
        transformer_depth=tuple(u["transformer_depth"]),
        context_dim=u["context_dim"],
        adm_in_channels=u["adm_in_channels"],
        attention=u["spatial_transformer_attn_type"],
        use_recompute=u["use_recompute"],
    )
    levels = len(unet.channel_mult)
    require(
        len(unet.transformer_depth) == levels,
        f"transformer_depth has {len(unet.transformer_depth)} numbers, channel_mult {levels}: give one for each level",
    )
    require(unet.model_channels % 32 == 0, f"model_channels is {unet.model_channels}, but must be a multiple of 32")
    for mult in unet.channel_mult:
        width = mult * unet.model_channels
        require(
            width % unet.num_head_channels == 0,
            f"num_head_channels {unet.num_head_channels} does not divide the {width} channels of a level",
        )
    width = sum(encoder.width for encoder in encoders)
    require(
        unet.context_dim == width,
        f"context_dim is {unet.context_dim}, but the text encoders give {width} channels together",
    )
    vector = encoders[1].embed_dim + 6 * size_width
    require(
        unet.adm_in_channels == vector,
        f"adm_in_channels is {unet.adm_in_channels}, but pooled text and sizes have {vector} channels together",
    )
    first_stage = params["first_stage_config"]["params"]
    dd = first_stage["ddconfig"]
    vae = VAEConfig(
        in_channels=dd["in_channels"],
        out_ch=dd["out_ch"],
        ch=dd["ch"],
        ch_mult=tuple(dd["ch_mult"]),
        num_res_blocks=dd["num_res_blocks"],
        z_channels=dd["z_channels"],
        embed_dim=first_stage["embed_dim"],
    )
    require(len(vae.ch_mult) == 4, f"ch_mult has {len(vae.ch_mult)} levels, but a first stage that reduces 8 times has 4")
    require(vae.ch % 32 == 0, f"ch is {vae.ch}, but must be a multiple of 32")
    require(
        unet.in_channels == unet.out_channels == vae.embed_dim,
        f"in_channels {unet.in_channels}, out_channels {unet.out_channels} and embed_dim {vae.embed_dim} must be equal",
    )
    return ModelConfig(
        unet=unet,
        text_encoders=encoders,
        vae=vae,
        size_embed_dim=size_width,
        scale_factor=params["scale_factor"],
    )


def _weighting(values: Mapping[str, Any]) -> WeightingConfig:
    return WeightingConfig(name=values["target"].rpartition(".")[2], params=values["params"])


def _text_encoders(embedders: Sequence[Mapping[str, Any]], path: str) -> tuple[tuple, int]:
    clips, open_clips = (t.CLIP, t.CLIP_LORA), (t.OPEN_CLIP, t.OPEN_CLIP_LORA)
    order = ((clips, "txt"), (open_clips, "txt"))
    order += tuple(((t.SIZE,), key) for key in ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple"))
    found = [(embedder["target"], embedder["input_key"]) for embedder in embedders]
    if len(found) != 5 or any(name not in names or key != wanted for (name, key), (names, wanted) in zip(found, order)):
        raise UserError(
            f"--config {path}: emb_models must be the two text encoders (FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder2; input "
            "txt), then ConcatTimestepEmbedderND for original_size_as_tuple, crop_coords_top_left, target_size_as_tuple"
        )
    configs = []
    for embedder, kind in zip(embedders, ("clip", "open_clip")):
        p = embedder["params"]
        has_lora = "lora_dim" in p
        if embedder["is_trainable"] != has_lora:
            wanted = "is_trainable: True" if has_lora else f"{embedder['target']}_lora"
            raise UserError(
                f"--config {path}: {embedder['target']} has is_trainable: {embedder['is_trainable']}, but text encoders "
                f"train by their LoRA alone: use {wanted}"
            )
        layer_idx = p["layer_idx"] if kind == "clip" else p["layers"] - 1
        if layer_idx > p["layers"] or p["width"] % p["heads"]:
            raise UserError(
                f"--config {path}: {embedder['target']} has layer_idx {layer_idx} of {p['layers']} layers and {p['heads']} "
                f"heads for width {p['width']}: the first must not be above the layers, and heads must divide the width"
            )
        sizes = {"width": p["width"], "layers": p["layers"], "heads": p["heads"], "embed_dim": p.get("embed_dim", 0)}
        configs.append(TextEncoderConfig(kind=kind, layer_idx=layer_idx, **sizes))
    widths = {embedder["params"]["outdim"] for embedder in embedders[2:]}
    if len(widths) != 1:
        raise UserError(f"--config {path}: the three ConcatTimestepEmbedderND must have the same outdim, not {sorted(widths)}")
    return tuple(configs), widths.pop()


def _optim(values: Mapping[str, Any], path: str) -> OptimConfig:
    optimizer, schedule = values["optimizer_config"], values["scheduler_config"]
    p = optimizer["params"]
    if values["base_learning_rate"] <= 0 or p["eps"] <= 0 or p["beta1"] >= 1 or p["beta2"] >= 1:
        raise UserError(
            f"--config {path}: base_learning_rate {values['base_learning_rate']:g} and eps {p['eps']:g} must be above 0, "
            f"beta1 {p['beta1']:g} and beta2 {p['beta2']:g} below 1"
        )
    name, s = "constant", {}
    if schedule is not None:
        name, s = schedule["target"].rpartition(".")[2].lower(), schedule["params"]
    return OptimConfig(
        base_learning_rate=values["base_learning_rate"],
        bias_correction=optimizer["target"] == t.ADAMW,
        **p,
        schedule=name,
        **s,
    )


def _data(values: Mapping[str, Any], model: ModelConfig, path: str) -> DataConfig:
    params = values["dataset_config"]["params"]
    size = params["target_size"]
    require_multiple(f"--config {path}: target_size", size, model.unet.downsampling)
    resize, crop = {"size": size, "interpolation": 3}, {"crop": "random"}
    if params["transforms"] is not None:
        order = [transform["target"] for transform in params["transforms"]]
        if order != [t.RESIZE, t.RESCALE, t.CROP, t.TRANSPOSE]:
            raise UserError(f"--config {path}: transforms must be Resize, Rescaler, {t.CROP.rpartition('.')[2]}, Transpose")
        resize, crop = params["transforms"][0]["params"], params["transforms"][2]["params"]
    if resize["size"] != size:
        raise UserError(f"--config {path}: Resize size is {resize['size']}, but target_size is {size}: make them equal")
    return DataConfig(
        per_batch_size=values["per_batch_size"],
        total_step=values["total_step"],
        num_parallel_workers=values["num_parallel_workers"],
        shuffle=values["shuffle"],
        target_size=size,
        interpolation=resize["interpolation"],
        crop=crop["crop"],
    )
