"""The one table of what a YAML may say: every accepted `target:` with its `params:`. Data only; load.py checks it.

The names are those of the earlier MindSpore example and of sgm. Nothing is imported because a YAML names it.
"""

from dataclasses import dataclass
from typing import Any, Mapping

from gm.diffusion.weighting import WEIGHTINGS, parameters

REQUIRED = object()


@dataclass(frozen=True)
class Entry:
    """One key: its type, its default, and, where only some values mean what this suite does, those values."""

    kind: Any  # int, float, bool, str, [int] for a list, Section, OneOf or Each
    default: Any = REQUIRED
    only: tuple = ()
    least: float = float("-inf")


@dataclass(frozen=True)
class Section:
    """A mapping with these keys."""

    entries: Mapping[str, Entry]


@dataclass(frozen=True)
class OneOf:
    """A mapping with `target` (one of these) and `params`; `extra` keys may stand beside them."""

    targets: tuple[str, ...]
    extra: Mapping[str, Entry] = ()


@dataclass(frozen=True)
class Each:
    """A list whose items are all of this kind."""

    kind: Any


TEXT_OR_TEXTS = object()  # kind: a text or a list of them


def only(*values: Any) -> Entry:
    """A key that may be written, with the values that mean what this suite does anyway."""
    return Entry(type(values[0]), values[0], values)


def anything(kind: type) -> Entry:
    """A key of the earlier example that is accepted and has no effect here; the README lists these."""
    return Entry(kind, None)


_MODULES = "gm.modules.diffusionmodules"
_WEIGHTING = f"{_MODULES}.denoiser_weighting"
_LEGACY_DDPM = f"{_MODULES}.discretizer.LegacyDDPMDiscretization"
ENGINES = ("gm.models.diffusion.DiffusionEngineDreamBooth", "gm.models.diffusion.DiffusionEngine")
UNET, UNET_LORA = f"{_MODULES}.openaimodel.UNetModel", f"{_MODULES}.openaimodel.UNetModel_lora"
_EMBEDDERS = "gm.modules.embedders.modules"
CLIP, CLIP_LORA = f"{_EMBEDDERS}.FrozenCLIPEmbedder", f"{_EMBEDDERS}.FrozenCLIPEmbedder_lora"
OPEN_CLIP, OPEN_CLIP_LORA = f"{_EMBEDDERS}.FrozenOpenCLIPEmbedder2", f"{_EMBEDDERS}.FrozenOpenCLIPEmbedder2_lora"
SIZE = f"{_EMBEDDERS}.ConcatTimestepEmbedderND"
ADAMW, ADAM_WEIGHT_DECAY = "gm.training.optim.AdamW", "mindspore.nn.AdamWeightDecay"
CONSTANT, LINEAR, COSINE = (f"gm.training.optim.{name}" for name in ("Constant", "Linear", "Cosine"))
RESIZE = "gm.data.mappers.Resize"
RESCALE = "gm.data.mappers.Rescaler"
CROP = "gm.data.mappers.AddOriginalImageSizeAsTupleAndCropToSquare"
TRANSPOSE = "gm.data.mappers.Transpose"

_LORA_PART = {"pattern": Entry(str), "dim": Entry(int, None, least=1), "alpha": Entry(float, None, least=0)}
_LORA = {
    "lora_dim": Entry(int, least=1),
    "lora_alpha": Entry(float, None, least=0),  # default: lora_dim
    "lora_dropout": Entry(float, 0.0, least=0),
    "lora_merge_weights": Entry(bool, False),
    "only_save_lora": Entry(bool, True),
    "lora_targets": Entry(TEXT_OR_TEXTS, "attention"),  # or linear, all, or patterns of module names
    "lora_conv_dim": Entry(int, None, least=1),  # default: lora_dim
    "lora_conv_alpha": Entry(float, None, least=0),  # default: lora_alpha
    "lora_parts": Entry(Each(Section(_LORA_PART)), None),
    "lora_neuron_dropout": Entry(float, 0.0, least=0),
    "lora_rank_dropout": Entry(float, 0.0, least=0),
    "lora_module_dropout": Entry(float, 0.0, least=0),
    "lora_kind": Entry(str, "lora", ("lora", "dora")),
    "lora_rslora": Entry(bool, False),
}
_UNET = {
    "adm_in_channels": Entry(int, 2816, least=1),
    "num_classes": only("sequential"),
    "in_channels": Entry(int, 4, least=1),
    "out_channels": Entry(int, 4, least=1),
    "model_channels": Entry(int, 320, least=32),
    "attention_resolutions": Entry([int], [4, 2]),
    "num_res_blocks": Entry(int, 2, least=1),
    "channel_mult": Entry([int], [1, 2, 4]),
    "num_head_channels": Entry(int, 64, least=1),
    "use_spatial_transformer": only(True),
    "use_linear_in_transformer": only(True),
    "transformer_depth": Entry([int], [1, 2, 10]),
    "context_dim": Entry(int, 2048, least=1),
    "spatial_transformer_attn_type": Entry(str, "vanilla", ("vanilla", "flash-attention")),
    "use_recompute": Entry(bool, False),
    "legacy": only(False),
}
_CLIP = {
    "layer": only("hidden"),
    "layer_idx": Entry(int, 11, least=1),
    "version": only("openai/clip-vit-large-patch14"),
    "freeze": Entry(bool, None),
    "width": Entry(int, 768, least=1),
    "layers": Entry(int, 12, least=1),
    "heads": Entry(int, 12, least=1),
}
_OPEN_CLIP = {
    "arch": only("ViT-bigG-14-Text", "ViT-bigG-14"),
    "freeze": Entry(bool, None),
    "layer": only("penultimate"),
    "always_return_pooled": only(True),
    "legacy": only(False),
    "require_pretrained": only(False),
    "width": Entry(int, 1280, least=1),
    "layers": Entry(int, 32, least=2),
    "heads": Entry(int, 20, least=1),
    "embed_dim": Entry(int, 1280, least=1),
}
_ADAM = {"beta1": Entry(float, 0.9, least=0), "beta2": Entry(float, 0.999, least=0)}
_WARMUP = {"warmup_steps": Entry(int, 0, least=0)}
_DECAY = {**_WARMUP, "final_factor": Entry(float, 0.0, least=0)}
_ENGINE = {
    "scale_factor": Entry(float, 0.13025, least=0),
    "disable_first_stage_amp": anything(bool),  # the VAE always computes in float32
    "denoiser_config": Entry(OneOf((f"{_MODULES}.denoiser.DiscreteDenoiser",))),
    "network_config": Entry(OneOf((UNET, UNET_LORA))),
    "conditioner_config": Entry(OneOf(("gm.modules.GeneralConditioner",))),
    "first_stage_config": Entry(OneOf(("gm.models.autoencoder.AutoencoderKLInferenceWrapper",))),
    "sigma_sampler_config": Entry(OneOf((f"{_MODULES}.sigma_sampling.DiscreteSampling",)), None),
    "loss_fn_config": Entry(OneOf((f"{_MODULES}.loss.StandardDiffusionLoss",)), None),
}
_DDCONFIG = {
    "attn_type": only("vanilla", "vanilla-xformers"),
    "double_z": only(True),
    "z_channels": Entry(int, 4, least=1),
    "resolution": anything(int),
    "in_channels": Entry(int, 3, (3,)),
    "out_ch": Entry(int, 3, (3,)),
    "ch": Entry(int, 128, least=32),
    "ch_mult": Entry([int], [1, 2, 4, 4]),
    "num_res_blocks": Entry(int, 2, least=1),
    "attn_resolutions": Entry([int], [], ([],)),
    "dropout": only(0.0),
    "decoder_attn_dtype": anything(str),  # the VAE always computes in float32
}

TARGETS: Mapping[str, Mapping[str, Entry]] = {
    **{engine: _ENGINE for engine in ENGINES},
    f"{_MODULES}.denoiser.DiscreteDenoiser": {
        "num_idx": only(1000),
        "weighting_config": Entry(OneOf(tuple(f"{_WEIGHTING}.{name}" for name in WEIGHTINGS))),
        "scaling_config": Entry(OneOf((f"{_MODULES}.denoiser_scaling.EpsScaling",))),
        "discretization_config": Entry(OneOf((_LEGACY_DDPM,))),
    },
    **{
        f"{_WEIGHTING}.{name}": {key: Entry(float, value, least=1e-6) for key, value in parameters(name).items()}
        for name in WEIGHTINGS
    },
    f"{_MODULES}.denoiser_scaling.EpsScaling": {},
    _LEGACY_DDPM: {},
    f"{_MODULES}.sigma_sampling.DiscreteSampling": {
        "num_idx": only(1000),
        "discretization_config": Entry(OneOf((_LEGACY_DDPM,))),
    },
    f"{_MODULES}.loss.StandardDiffusionLoss": {},
    UNET: _UNET,
    UNET_LORA: {**_LORA, **_UNET},
    "gm.modules.GeneralConditioner": {
        "emb_models": Entry(
            Each(
                OneOf(
                    (CLIP, CLIP_LORA, OPEN_CLIP, OPEN_CLIP_LORA, SIZE),
                    {"is_trainable": Entry(bool, False), "input_key": Entry(str)},
                )
            )
        )
    },
    CLIP: _CLIP,
    CLIP_LORA: {**_LORA, **_CLIP},
    OPEN_CLIP: _OPEN_CLIP,
    OPEN_CLIP_LORA: {**_LORA, **_OPEN_CLIP},
    SIZE: {"outdim": Entry(int, 256, least=2)},
    "gm.models.autoencoder.AutoencoderKLInferenceWrapper": {
        "embed_dim": Entry(int, 4, least=1),
        "monitor": anything(str),
        "ddconfig": Entry(Section(_DDCONFIG)),
        "lossconfig": Entry(OneOf(("mindspore.nn.Identity",)), None),
    },
    "mindspore.nn.Identity": {},
    ADAMW: {**_ADAM, "eps": Entry(float, 1e-8, least=0), "weight_decay": Entry(float, 0.01, least=0)},
    ADAM_WEIGHT_DECAY: {**_ADAM, "eps": Entry(float, 1e-6, least=0), "weight_decay": Entry(float, 0.0, least=0)},
    CONSTANT: _WARMUP,
    LINEAR: _DECAY,
    COSINE: _DECAY,
    "gm.data.dataset.Text2ImageDatasetDreamBooth": {
        "target_size": Entry(int, 1024, least=8),
        "transforms": Entry(Each(OneOf((RESIZE, RESCALE, CROP, TRANSPOSE))), None),
    },
    RESIZE: {"size": Entry(int, least=8), "interpolation": Entry(int, 3, (0, 1, 2, 3, 4, 5))},
    RESCALE: {"isfloat": only(False)},
    CROP: {"crop": Entry(str, "random", ("random", "center"))},
    TRANSPOSE: {"type": only("hwc2chw")},
}

ROOT = Section(
    {
        "version": Entry(str, "SDXL-base-1.0", ("SDXL-base-1.0",)),
        "model": Entry(OneOf(ENGINES)),
        "optim": Entry(
            Section(
                {
                    "base_learning_rate": Entry(float, 1e-4, least=0),
                    "optimizer_config": Entry(OneOf((ADAMW, ADAM_WEIGHT_DECAY))),
                    "scheduler_config": Entry(OneOf((CONSTANT, LINEAR, COSINE)), None),
                }
            ),
            None,
        ),
        "data": Entry(
            Section(
                {
                    "per_batch_size": Entry(int, 1, least=1),
                    "total_step": Entry(int, 1000, least=1),
                    "num_parallel_workers": Entry(int, 1, least=1),
                    "python_multiprocessing": anything(bool),  # photos are read once, by threads
                    "shuffle": Entry(bool, True),
                    "dataset_config": Entry(OneOf(("gm.data.dataset.Text2ImageDatasetDreamBooth",))),
                }
            ),
            None,
        ),
    }
)
