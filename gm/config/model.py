"""The values of the `model` section of a YAML -> ModelConfig and what belongs to the loss."""

from typing import Any, Mapping, Sequence

from gm.config import table as t
from gm.config.types import (
    BASE_SIZES,
    REFINER_SIZES,
    SIZE_NUMBERS,
    LossConfig,
    ModelConfig,
    NoiseConfig,
    TextEncoderConfig,
    UNetConfig,
    VAEConfig,
    WeightingConfig,
)
from gm.errors import UserError


def read_model(params: Mapping[str, Any], path: str, inpainting: bool = False) -> ModelConfig:
    """The three networks; UserError where their sizes do not fit together. `inpainting`: the UNet may be one for that."""

    def require(holds: bool, message: str) -> None:
        if not holds:
            raise UserError(f"--config {path}: {message}")

    if params["scale_factor"] <= 0:
        raise UserError(f"--config {path}: scale_factor is {params['scale_factor']:g}, but must be above 0")
    encoders, size_keys, size_width = _embedders(params["conditioner_config"]["params"]["emb_models"], path)
    u = params["network_config"]["params"]
    levels = len(u["channel_mult"])
    depth, context_dim = u["transformer_depth"], u["context_dim"]
    if isinstance(context_dim, list):  # one for each transformer block in sgm, which all see the same text
        require(
            len(set(context_dim)) == 1, f"context_dim is {context_dim}, but every block sees the same text: give one number"
        )
        context_dim = context_dim[0]
    unet = UNetConfig(
        in_channels=u["in_channels"],
        out_channels=u["out_channels"],
        model_channels=u["model_channels"],
        num_res_blocks=u["num_res_blocks"],
        attention_resolutions=tuple(u["attention_resolutions"]),
        channel_mult=tuple(u["channel_mult"]),
        num_head_channels=u["num_head_channels"],
        transformer_depth=tuple(depth) if isinstance(depth, list) else (depth,) * levels,
        context_dim=context_dim,
        adm_in_channels=u["adm_in_channels"],
        attention=u["spatial_transformer_attn_type"],
        use_recompute=u["use_recompute"],
    )
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
    vector = encoders[-1].embed_dim + sum(SIZE_NUMBERS[key] for key in size_keys) * size_width
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
    inpaints = unet.in_channels == 2 * vae.embed_dim + 1
    require(
        inpainting or not inpaints,
        f"in_channels {unet.in_channels} is of an inpainting UNet, which only --task inpaint of the sampling command takes",
    )
    require(
        (inpaints or unet.in_channels == unet.out_channels) and unet.out_channels == vae.embed_dim,
        f"in_channels {unet.in_channels}, out_channels {unet.out_channels} and embed_dim {vae.embed_dim} must be equal",
    )
    prediction, zero_terminal_snr = _prediction(params, path)
    return ModelConfig(
        unet=unet,
        text_encoders=encoders,
        vae=vae,
        size_embed_dim=size_width,
        size_keys=size_keys,
        scale_factor=params["scale_factor"],
        prediction=prediction,
        zero_terminal_snr=zero_terminal_snr,
    )


def _prediction(params: Mapping[str, Any], path: str) -> tuple[str, bool]:
    """What the UNet's output is, and whether the last noise level is noise alone."""
    denoiser = params["denoiser_config"]["params"]
    prediction = {t.EPS_SCALING: "eps", t.V_SCALING: "v", t.X0_SCALING: "x0"}[denoiser["scaling_config"]["target"]]
    zero_terminal_snr = bool(denoiser["discretization_config"]["params"]["zero_terminal_snr"])
    if zero_terminal_snr and prediction == "eps":
        raise UserError(
            f"--config {path}: zero_terminal_snr with EpsScaling teaches nothing at the last level, where all that is seen "
            f"is the noise: give scaling_config the target {t.V_SCALING}"
        )
    sampler = params["sigma_sampler_config"]
    drawn = sampler["params"]["discretization_config"]["params"]["zero_terminal_snr"] if sampler else None
    if drawn is not None and drawn != zero_terminal_snr:
        raise UserError(
            f"--config {path}: zero_terminal_snr is {zero_terminal_snr} in denoiser_config, but {drawn} in "
            "sigma_sampler_config: leave it out there, or make them equal"
        )
    return prediction, zero_terminal_snr


_KINDS = {**dict.fromkeys(t.CLIPS, "clip"), **dict.fromkeys(t.OPEN_CLIPS, "open_clip"), t.SIZE: ""}
_CONDITIONERS = {(("clip", "open_clip"), BASE_SIZES), (("open_clip",), REFINER_SIZES)}


def _embedders(embedders: Sequence[Mapping[str, Any]], path: str) -> tuple[tuple, tuple, int]:
    """The text encoders, the keys of the size numbers, and the channels of each number."""
    kinds = tuple(filter(None, (_KINDS[embedder["target"]] for embedder in embedders)))
    keys = tuple(embedder["input_key"] for embedder in embedders)
    size_keys = keys[len(kinds) :]
    in_order = all(embedder["target"] == t.SIZE for embedder in embedders[len(kinds) :])
    if (kinds, size_keys) not in _CONDITIONERS or not in_order or set(keys[: len(kinds)]) != {"txt"}:
        raise UserError(
            f"--config {path}: emb_models must be the two text encoders (FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder2; input "
            f"txt), then ConcatTimestepEmbedderND for {', '.join(BASE_SIZES)}; of the refiner the second encoder, then those "
            f"for {', '.join(REFINER_SIZES)}"
        )
    configs = []
    for embedder, kind in zip(embedders, kinds):
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
    widths = {embedder["params"]["outdim"] for embedder in embedders[len(kinds) :]}
    if len(widths) != 1:
        raise UserError(f"--config {path}: the three ConcatTimestepEmbedderND must have the same outdim, not {sorted(widths)}")
    return tuple(configs), size_keys, widths.pop()


def read_weighting(values: Mapping[str, Any]) -> WeightingConfig:
    """How the noise levels count."""
    return WeightingConfig(name=values["target"].rpartition(".")[2], params=values["params"])


def read_noise(params: Mapping[str, Any], path: str) -> NoiseConfig:
    """What noise is trained on, of the sections loss_fn_config and sigma_sampler_config, which may be absent."""
    loss, sampler = (params[name]["params"] if params[name] else {} for name in ("loss_fn_config", "sigma_sampler_config"))
    given = {key: value for key, value in {**loss, **sampler}.items() if key in NoiseConfig.__dataclass_fields__}
    noise = NoiseConfig(**given)
    levels = ModelConfig.num_timesteps
    if not noise.min_timestep < noise.max_timestep <= levels:
        raise UserError(
            f"--config {path}: min_timestep is {noise.min_timestep} and max_timestep {noise.max_timestep}, but the first must "
            f"be below the second, and that at most {levels}"
        )
    return noise


def read_loss(params: Mapping[str, Any]) -> LossConfig:
    """What is made of an error."""
    given = params["loss_fn_config"]["params"] if params["loss_fn_config"] else {}
    return LossConfig(**{key: value for key, value in given.items() if key in LossConfig.__dataclass_fields__})
