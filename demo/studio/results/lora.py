"""What a LoRA file says of itself, and which of the page's models it is for."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Mapping, Optional, Sequence

from gm.checkpoint.lora_files import open_lora
from gm.checkpoint.weights import split_weight_argument
from gm.config.load import load_config
from gm.config.types import Config, ModelConfig
from gm.errors import UserError
from gm.options.sample import SampleOptions
from studio.choice import config_of, models_of, start_of
from studio.files import stamp
from studio.models import Model
from studio.results.saved import Saved
from studio.visit import Studio

SIZES = ("model_channels", "channel_mult", "num_res_blocks", "attention_resolutions", "transformer_depth", "context_dim")


@dataclass(frozen=True)
class Details:
    """Of one file."""

    said: Mapping[str, str]  # its metadata
    ranks: Sequence[int]
    alphas: Sequence[float]
    modules: int
    layout: str
    is_dora: bool
    size: int  # bytes
    fits: bool  # whether its matrices are as wide as the model's


def details_of(path: Path, model: Optional[ModelConfig]) -> Details:
    """UserError for what is no LoRA of this model, None for SDXL."""
    return _details(stamp(path), model)


@lru_cache(maxsize=256)
def _details(of: tuple[str, int, int], model: Optional[ModelConfig]) -> Details:
    with open_lora(of[0], model) as file:
        return Details(
            said=dict(file.metadata),
            ranks=sorted({pair.rank for pair in file.modules.values()}),
            alphas=sorted({file.alpha(module) for module in file.modules}),
            modules=len(file.modules),
            layout=file.layout,
            is_dora=file.is_dora,
            size=of[2],
            fits=not file.other_size,
        )


# -- models --------------------------------------------------------------------------------------------------------------


def options_of(studio: Studio, model: Model) -> SampleOptions:
    """How pictures of this model are made where nobody says otherwise; its base alone is the weight."""
    start = start_of(model, studio.argv)
    return replace(start, weight=split_weight_argument(start.weight)[0], lora_scale=None)


def config_at(path: str, overrides: Sequence[str] = ()) -> Config:
    """A YAML, for sampling."""
    return _config(stamp(Path(path)), tuple(overrides))


@lru_cache(maxsize=64)
def _config(of: tuple[str, int, int], overrides: Sequence[str]) -> Config:
    return load_config(of[0], overrides, training=False)


def model_of(studio: Studio, run: Saved) -> Optional[Model]:
    """The page's model whose networks are as large as those that the run trained: by its config.yaml, or else by its newest LoRA.
    None where there is none."""
    models = models_of(studio)
    own = run.file("config.yaml")
    trained = None
    if own is not None:
        try:
            trained = config_at(str(own)).model
        except (OSError, UserError):
            pass  # damaged, or of a later version: the LoRA tells as well
    for model in models.values():
        try:
            known = config_of(options_of(studio, model)).model
            if same_sizes(known, trained) if trained else details_of(run.loras[run.last], known).fits:
                return model
        except (OSError, UserError):
            continue
    return None


def same_sizes(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether a LoRA of the one fits the other; how they are computed may differ."""
    of_text = [[(encoder.width, encoder.layers) for encoder in model.text_encoders] for model in (one, other)]
    return of_text[0] == of_text[1] and all(getattr(one.unet, name) == getattr(other.unet, name) for name in SIZES)
