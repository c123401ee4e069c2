"""The one table of what a YAML may say: every accepted `target:` with its `params:`. Data only; load.py checks it.

The names are those of the earlier MindSpore example and of sgm. Nothing is imported because a YAML names it.
"""

from dataclasses import dataclass
from typing import Any, Mapping, Optional

from gm.config.bounds import (
    LARGEST_RANK,
    LARGEST_RATE,
    LARGEST_SIDE,
    MOST_AT_ONCE,
    MOST_REPEATS,
    MOST_UPDATES,
)
from gm.config.types import MAX_TOKENS
from gm.diffusion.weighting import WEIGHTINGS, parameters

REQUIRED = object()


@dataclass(frozen=True)
class Entry:
    """One key: its type, its default, and, where only some values mean what this suite does, those values."""

    kind: Any  # int, float, bool, str, PATH, PROMPT, [int] for a list, Section, OneOf or Each
    default: Any = REQUIRED
    only: tuple = ()
    least: Optional[float] = None  # of a number, or of each in a list; None: see gm/texts.py
    most: Optional[float] = None  # the same
    fewest: int = 0  # items of a list


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


VERSIONS = BASE_VERSION, REFINER_VERSION = "SDXL-base-1.0", "SDXL-refiner-1.0"

TEXT_OR_TEXTS = object()  # kind: a text or a list of them
NUMBER_OR_NUMBERS = object()  # kind: a whole number or a list of them
PATH = object()  # kind: the text of a path
PROMPT = object()  # kind: the text of a prompt


def only(*values: Any) -> Entry:
    """A key that may be written, with the values that mean what this suite does anyway."""
    return Entry(type(values[0]), values[0], values)


def anything(kind: type) -> Entry:
    """A key of the earlier example that is accepted and has no effect here; the README lists these."""
    return Entry(kind, None)


_MODULES = "gm.modules.diffusionmodules"
_WEIGHTING = f"{_MODULES}.denoiser_weighting"
_LEGACY_DDPM = f"{_MODULES}.discretizer.LegacyDDPMDiscretization"
EPS_SCALING, V_SCALING, X0_SCALING = (f"{_MODULES}.denoiser_scaling.{name}Scaling" for name in ("Eps", "V", "X0"))
ENGINES = ("gm.models.diffusion.DiffusionEngineDreamBooth", "gm.models.diffusion.DiffusionEngine")
UNET, UNET_LORA = f"{_MODULES}.openaimodel.UNetModel", f"{_MODULES}.openaimodel.UNetModel_lora"
_EMBEDDERS = "gm.modules.embedders.modules"
CLIP, CLIP_LORA = f"{_EMBEDDERS}.FrozenCLIPEmbedder", f"{_EMBEDDERS}.FrozenCLIPEmbedder_lora"
OPEN_CLIP, OPEN_CLIP_LORA = f"{_EMBEDDERS}.FrozenOpenCLIPEmbedder2", f"{_EMBEDDERS}.FrozenOpenCLIPEmbedder2_lora"
CLIPS, OPEN_CLIPS = (CLIP, CLIP_LORA), (OPEN_CLIP, OPEN_CLIP_LORA)
SIZE = f"{_EMBEDDERS}.ConcatTimestepEmbedderND"
ADAMW, ADAM_WEIGHT_DECAY = "gm.training.optim.AdamW", "mindspore.nn.AdamWeightDecay"
PRODIGY, ADAFACTOR, LION = (f"gm.training.optim.{name}" for name in ("Prodigy", "Adafactor", "Lion"))
OPTIMIZERS = (ADAMW, ADAM_WEIGHT_DECAY, PRODIGY, ADAFACTOR, LION)
CONSTANT, LINEAR, COSINE = (f"gm.training.optim.{name}" for name in ("Constant", "Linear", "Cosine"))
COSINE_RESTARTS, POLYNOMIAL = (f"gm.training.optim.{name}" for name in ("CosineRestarts", "Polynomial"))
RESIZE = "gm.data.mappers.Resize"
RESCALE = "gm.data.mappers.Rescaler"
CROP = "gm.data.mappers.AddOriginalImageSizeAsTupleAndCropToSquare"
TRANSPOSE = "gm.data.mappers.Transpose"

_LORA_PART = {
    "pattern": Entry(str),
    "dim": Entry(int, None, least=1, most=LARGEST_RANK),
    "alpha": Entry(float, None, least=0, most=1e5),
}
_LORA = {
    "lora_dim": Entry(int, least=1, most=LARGEST_RANK),
    "lora_alpha": Entry(float, None, least=0, most=1e5),  # default: lora_dim
    "lora_dropout": Entry(float, 0.0, least=0),
    "lora_merge_weights": Entry(bool, False),
    "only_save_lora": Entry(bool, True),
    "lora_targets": Entry(TEXT_OR_TEXTS, "attention"),  # or linear, all, or patterns of module names
    "lora_conv_dim": Entry(int, None, least=1, most=LARGEST_RANK),  # default: lora_dim
    "lora_conv_alpha": Entry(float, None, least=0, most=1e5),  # default: lora_alpha
    "lora_parts": Entry(Each(Section(_LORA_PART)), None),
    "lora_neuron_dropout": Entry(float, 0.0, least=0),
    "lora_rank_dropout": Entry(float, 0.0, least=0),
    "lora_module_dropout": Entry(float, 0.0, least=0),
    "lora_kind": Entry(str, "lora", ("lora", "dora")),
    "lora_rslora": Entry(bool, False),
}
_UNET = {
    "adm_in_channels": Entry(int, 2816, least=1, most=65536),
    "num_classes": only("sequential"),
    "in_channels": Entry(int, 4, least=1, most=64),
    "out_channels": Entry(int, 4, least=1, most=64),
    "model_channels": Entry(int, 320, least=32, most=4096),
    "attention_resolutions": Entry([int], [4, 2], least=1, most=1024),
    "num_res_blocks": Entry(int, 2, least=1, most=16),
    "channel_mult": Entry([int], [1, 2, 4], least=1, most=64, fewest=1),
    "num_head_channels": Entry(int, 64, least=1, most=4096),
    "use_spatial_transformer": only(True),
    "use_linear_in_transformer": only(True),
    "transformer_depth": Entry(NUMBER_OR_NUMBERS, [1, 2, 10], least=1, most=64, fewest=1),
    "context_dim": Entry(NUMBER_OR_NUMBERS, 2048, least=1, most=65536, fewest=1),
    "spatial_transformer_attn_type": Entry(str, "vanilla", ("vanilla", "flash-attention")),
    "use_recompute": Entry(bool, False),
    "legacy": only(False),
}
_CLIP = {
    "layer": only("hidden"),
    "layer_idx": Entry(int, 11, least=1, most=128),
    "version": only("openai/clip-vit-large-patch14"),
    "freeze": Entry(bool, None),
    "width": Entry(int, 768, least=1, most=16384),
    "layers": Entry(int, 12, least=1, most=128),
    "heads": Entry(int, 12, least=1, most=256),
}
_OPEN_CLIP = {
    "arch": only("ViT-bigG-14-Text", "ViT-bigG-14"),
    "freeze": Entry(bool, None),
    "layer": only("penultimate"),
    "always_return_pooled": only(True),
    "legacy": only(False),
    "require_pretrained": only(False),
    "width": Entry(int, 1280, least=1, most=16384),
    "layers": Entry(int, 32, least=2, most=128),
    "heads": Entry(int, 20, least=1, most=256),
    "embed_dim": Entry(int, 1280, least=1, most=16384),
}
_ADAM = {"beta1": Entry(float, 0.9, least=0), "beta2": Entry(float, 0.999, least=0)}
_PRODIGY = {
    **_ADAM,
    "beta3": Entry(float, None, least=0),  # default: the root of beta2
    "eps": Entry(float, 1e-8, least=0, most=1),
    "weight_decay": Entry(float, 0.0, least=0, most=100),
    "decouple": Entry(bool, True),
    "use_bias_correction": Entry(bool, False),
    "safeguard_warmup": Entry(bool, False),
    "d0": Entry(float, 1e-6, least=0, most=1),
    "d_coef": Entry(float, 1.0, least=0, most=1e6),
    "growth_rate": Entry(float, None, least=1),  # default: d may grow as fast as it will
}
_ADAFACTOR = {
    "eps1": Entry(float, 1e-30, least=0, most=1),
    "eps2": Entry(float, 1e-3, least=0, most=1000),
    "clip_threshold": Entry(float, 1.0, least=0),
    "decay_rate": Entry(float, -0.8, least=-10),
    "beta1": Entry(float, None, least=0),  # default: no first moment
    "weight_decay": Entry(float, 0.0, least=0, most=100),
    "scale_parameter": Entry(bool, True),
    "relative_step": Entry(bool, True),
    "warmup_init": Entry(bool, False),
}
_LION = {
    "beta1": Entry(float, 0.9, least=0),
    "beta2": Entry(float, 0.99, least=0),
    "weight_decay": Entry(float, 0.0, least=0, most=100),
}
_RATE = Entry(float, None, least=0, most=LARGEST_RATE)  # default: base_learning_rate
_WARMUP = {"warmup_steps": Entry(int, 0, least=0, most=MOST_UPDATES), "warmup_share": Entry(float, 0.0, least=0)}
_DECAY = {**_WARMUP, "final_factor": Entry(float, 0.0, least=0, most=100)}
_ENGINE = {
    "scale_factor": Entry(float, 0.13025, least=0, most=1000),
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
    "z_channels": Entry(int, 4, least=1, most=64),
    "resolution": anything(int),
    "in_channels": Entry(int, 3, (3,)),
    "out_ch": Entry(int, 3, (3,)),
    "ch": Entry(int, 128, least=32, most=2048),
    "ch_mult": Entry([int], [1, 2, 4, 4], least=1, most=64, fewest=1),
    "num_res_blocks": Entry(int, 2, least=1, most=16),
    "attn_resolutions": Entry([int], [], ([],)),
    "dropout": only(0.0),
    "decoder_attn_dtype": anything(str),  # the VAE always computes in float32
}

_CAPTIONS = {
    "extensions": Entry([str], [".txt", ".caption"]),
    "trigger": Entry(str, None),
    "prefix": Entry(str, None),
    "suffix": Entry(str, None),
    "separator": Entry(str, ","),
    "keep_tokens": Entry(int, 0, least=0, most=1000),
    "keep_tokens_separator": Entry(str, None),
    "shuffle": Entry(bool, False),
    "tag_dropout": Entry(float, 0.0, least=0),
    "dropout": Entry(float, 0.0, least=0),
    "variants": Entry(int, 10, least=1, most=1000),
}
_BUCKETS = {
    "max_buckets": Entry(int, 4, least=1, most=64),
    "bucket_reso_steps": Entry(int, None, least=8, most=LARGEST_SIDE),
    "min_bucket_reso": Entry(int, None, least=8, most=LARGEST_SIDE),
    "max_bucket_reso": Entry(int, None, least=8, most=2 * LARGEST_SIDE),
    "bucket_no_upscale": Entry(bool, False),
}
_MASKS = {
    "folder": Entry(PATH, None),
    "unmasked_weight": Entry(float, 0.1, least=0),
    "normalise": Entry(bool, False),
    "prior_weight": Entry(float, 0.0, least=0, most=1000),
}
_CONCEPT = {
    "instance_data_path": Entry(PATH),
    "instance_prompt": Entry(PROMPT, None),
    "class_data_path": Entry(PATH, None),
    "class_prompt": Entry(PROMPT, None),
    "repeats": Entry(int, None, least=1, most=MOST_REPEATS),
    "weight": Entry(float, 1.0, least=0, most=1000),
}

TARGETS: Mapping[str, Mapping[str, Entry]] = {
    **{engine: _ENGINE for engine in ENGINES},
    f"{_MODULES}.denoiser.DiscreteDenoiser": {
        "num_idx": only(1000),
        "weighting_config": Entry(OneOf(tuple(f"{_WEIGHTING}.{name}" for name in WEIGHTINGS))),
        "scaling_config": Entry(OneOf((EPS_SCALING, V_SCALING, X0_SCALING))),
        "discretization_config": Entry(OneOf((_LEGACY_DDPM,))),
    },
    **{
        f"{_WEIGHTING}.{name}": {key: Entry(float, value, least=1e-6) for key, value in parameters(name).items()}
        for name in WEIGHTINGS
    },
    EPS_SCALING: {},
    V_SCALING: {},
    X0_SCALING: {},  # of distilled weights for one step; sgm has no such class
    _LEGACY_DDPM: {"zero_terminal_snr": Entry(bool, None)},  # default: False; of the sampler: as the denoiser's
    f"{_MODULES}.sigma_sampling.DiscreteSampling": {
        "num_idx": only(1000),
        "discretization_config": Entry(OneOf((_LEGACY_DDPM,))),
        "min_timestep": Entry(int, 0, least=0, most=1000),
        "max_timestep": Entry(int, 1000, least=1, most=1000),
    },
    f"{_MODULES}.loss.StandardDiffusionLoss": {
        "offset_noise_level": Entry(float, 0.0, least=0, most=100),
        "multires_noise_iterations": Entry(int, 0, least=0, most=64),
        "multires_noise_discount": Entry(float, 0.3, least=0, most=10),
        "input_perturbation": Entry(float, 0.0, least=0, most=100),
        "loss_type": Entry(str, "l2", ("l2", "huber", "smooth_l1")),
        "huber_c": Entry(float, 0.1, least=1e-6, most=1e6),
        "huber_schedule": Entry(str, "snr", ("snr", "exponential", "constant")),
    },
    UNET: _UNET,
    UNET_LORA: {**_LORA, **_UNET},
    "gm.modules.GeneralConditioner": {
        "emb_models": Entry(
            Each(
                OneOf(
                    (*CLIPS, *OPEN_CLIPS, SIZE),
                    {"is_trainable": Entry(bool, False), "input_key": Entry(str)},
                )
            )
        )
    },
    CLIP: _CLIP,
    CLIP_LORA: {**_LORA, **_CLIP},
    OPEN_CLIP: _OPEN_CLIP,
    OPEN_CLIP_LORA: {**_LORA, **_OPEN_CLIP},
    SIZE: {"outdim": Entry(int, 256, least=2, most=4096)},
    "gm.models.autoencoder.AutoencoderKLInferenceWrapper": {
        "embed_dim": Entry(int, 4, least=1, most=16384),
        "monitor": anything(str),
        "ddconfig": Entry(Section(_DDCONFIG)),
        "lossconfig": Entry(OneOf(("mindspore.nn.Identity",)), None),
    },
    "mindspore.nn.Identity": {},
    ADAMW: {**_ADAM, "eps": Entry(float, 1e-8, least=0, most=1), "weight_decay": Entry(float, 0.01, least=0, most=100)},
    ADAM_WEIGHT_DECAY: {
        **_ADAM,
        "eps": Entry(float, 1e-6, least=0, most=1),
        "weight_decay": Entry(float, 0.0, least=0, most=100),
    },
    PRODIGY: _PRODIGY,
    ADAFACTOR: _ADAFACTOR,
    LION: _LION,
    CONSTANT: _WARMUP,
    LINEAR: _DECAY,
    COSINE: _DECAY,
    COSINE_RESTARTS: {**_WARMUP, "num_cycles": Entry(int, 1, least=1, most=10_000)},
    POLYNOMIAL: {**_DECAY, "power": Entry(float, 1.0, least=0, most=1000)},
    "gm.data.dataset.Text2ImageDatasetDreamBooth": {
        "target_size": Entry(int, 1024, least=8, most=LARGEST_SIDE),
        "transforms": Entry(Each(OneOf((RESIZE, RESCALE, CROP, TRANSPOSE))), None),
        "captions": Entry(Section(_CAPTIONS), None),
        "buckets": Entry(Section(_BUCKETS), None),
        "masks": Entry(Section(_MASKS), None),
        "concepts": Entry(Each(Section(_CONCEPT)), None),
        "max_tokens": Entry(int, 75, MAX_TOKENS),
    },
    RESIZE: {"size": Entry(int, least=8, most=LARGEST_SIDE), "interpolation": Entry(int, 3, (0, 1, 2, 3, 4, 5))},
    RESCALE: {"isfloat": only(False)},
    CROP: {"crop": Entry(str, "random", ("random", "center"))},
    TRANSPOSE: {"type": only("hwc2chw")},
}

ROOT = Section(
    {
        "version": Entry(str, None, VERSIONS),  # default: what the embedders say
        "model": Entry(OneOf(ENGINES)),
        "optim": Entry(
            Section(
                {
                    "base_learning_rate": Entry(
                        float, None, least=0, most=LARGEST_RATE
                    ),  # default: 1e-4, but for a relative step
                    "optimizer_config": Entry(OneOf(OPTIMIZERS)),
                    "scheduler_config": Entry(OneOf((CONSTANT, LINEAR, COSINE, COSINE_RESTARTS, POLYNOMIAL)), None),
                    "rates": Entry(Section({"unet": _RATE, "text_encoder_1": _RATE, "text_encoder_2": _RATE}), None),
                    "text_encoder_stop_share": Entry(float, 1.0),
                    "lora_plus_ratio": Entry(float, 1.0, most=1e6),
                    "scale_weight_norms": Entry(float, None),
                    "ema_decay": Entry(float, None),
                }
            ),
            None,
        ),
        "data": Entry(
            Section(
                {
                    "per_batch_size": Entry(int, 1, least=1, most=MOST_AT_ONCE),
                    "total_step": Entry(int, 1000, least=1, most=MOST_UPDATES),
                    "num_parallel_workers": Entry(int, 1, least=1, most=256),
                    "python_multiprocessing": anything(bool),  # photos are read once, by threads
                    "shuffle": Entry(bool, True),
                    "dataset_config": Entry(OneOf(("gm.data.dataset.Text2ImageDatasetDreamBooth",))),
                }
            ),
            None,
        ),
    }
)
