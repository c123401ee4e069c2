"""Which weights pictures and embeddings are made from: base weights and any LoRA, opened as one set of numbers."""

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Callable, Mapping, Optional, Sequence

import numpy as np

from gm.checkpoint.embeddings import LearnedWord, open_embeddings
from gm.checkpoint.lora_files import LoraFile
from gm.checkpoint.lora_stack import LoraStack, merged, open_weights, with_given_lora
from gm.checkpoint.lora_strength import Strengths
from gm.checkpoint.weights import BaseWeights
from gm.config.types import Adapters, Config, DataConfig, ModelConfig
from gm.errors import UserError
from gm.models import sdxl
from gm.models.text_encoder import VOCABULARY
from gm.runtime import Runtime


@dataclass(frozen=True)
class Source:
    """What a model is made from, and where it computes; picklable."""

    model: ModelConfig
    weight: str  # base[,lora,...]
    machine: Runtime
    strengths: Strengths = Strengths()  # of each LoRA, that of a base + LoRA file first
    use_lora: bool = True  # False leaves aside LoRA that the base file holds
    vae: Optional[str] = None  # another first stage than the base's
    keeps_lora_apart: bool = False  # two more matrices beside a weight, as in training, instead of their sum; not with DoRA
    alpha: Optional[float] = None  # of a native LoRA that does not say its own; None: its rank
    max_tokens: int = 75  # of a prompt: 75, 150 or 225
    prompt_style: str = "plain"  # how prompts are read: a key of PROMPT_STYLES
    clip_skip: int = 0  # layers of the text encoders that are left out beside SDXL's own last
    embeddings: tuple[str, ...] = ()  # files of textual inversion
    flags: tuple[str, str] = ("--weight", "--config")  # that say its weights and its YAML, for messages
    graphs: Optional[str] = None  # the folder of --compile_cache_dir

    def open(self) -> "Weights":
        """The files, opened; UserError when one is not what it should be. No array is read yet."""
        base, stack = open_weights(self.weight, self.strengths, self.model, self.alpha, self.use_lora, self.vae)
        apart = (self.keeps_lora_apart or stack.is_scheduled) and stack.can_stay_apart
        read = with_given_lora(base.read, stack.read) if apart else merged(base.read, stack)
        words = open_embeddings(self.embeddings, self.model)
        return Weights(
            base=base,
            read=with_learned(read, words) if words else read,
            adapters=stack.adapters if apart else {},
            stack=stack,
            words=words,
            flags=self.flags,
        )

    def text_model(self, learned: int = 0) -> ModelConfig:
        """The model with its text encoders as prompts of this source need them; `learned`: rows of new words. UserError where more
        layers are left out than there are."""
        most = min(encoder.layer_idx for encoder in self.model.text_encoders) - 1
        if self.clip_skip > most:
            raise UserError(f"--clip_skip {self.clip_skip} leaves no layer of a text encoder: give at most {most}")
        encoders = (
            replace(encoder, layer_idx=encoder.layer_idx - self.clip_skip, learned=learned)
            for encoder in self.model.text_encoders
        )
        return replace(self.model, text_encoders=tuple(encoders))


def source_of(config: Config, weight: str, machine: Runtime, max_tokens: Optional[int] = None, **more) -> Source:
    """The Source of a YAML: its LoRA section says what LoRA of --weight become, its data section how long a prompt may be
    where `max_tokens` does not. `more`: further fields of Source."""
    lora = next(iter(config.lora.values()), None)
    data = config.data or DataConfig()
    return Source(
        model=config.model,
        weight=weight,
        machine=machine,
        keeps_lora_apart=lora is not None and not lora.merge_weights,
        alpha=lora.alpha if lora else None,
        max_tokens=max_tokens or data.max_tokens,
        **more,
    )


_TABLE = re.compile(r"conditioner\.embedders\.(\d)\..*token_embedding\.embedding_table")


def with_learned(read: Callable[[str], np.ndarray], words: Sequence[LearnedWord]) -> Callable[[str], np.ndarray]:
    """`read` with the rows of learned words below those of the token tables."""

    def read_longer(name: str) -> np.ndarray:
        found, table = _TABLE.fullmatch(name), read(name)
        if found is None:
            return table
        return np.concatenate([table.astype(np.float32), *(word.rows[int(found[1])] for word in words)])

    return read_longer


@dataclass(frozen=True)
class Weights:
    """The opened files of a Source."""

    base: BaseWeights
    read: Callable[[str], np.ndarray]  # native name -> array, LoRA included
    adapters: Adapters  # the LoRA that stay apart
    stack: LoraStack  # all LoRA
    words: Sequence[LearnedWord] = ()  # of textual inversion
    flags: tuple[str, str] = ("--weight", "--config")

    @property
    def files(self) -> Sequence[LoraFile]:
        return self.stack.files

    @property
    def vocabulary(self) -> dict[str, list[int]]:
        """The learned words and their ids."""
        found, first = {}, VOCABULARY
        for word in self.words:
            found[word.name] = list(range(first, first + word.count))
            first += word.count
        return found

    def decides(self, source: Source, networks: str) -> Mapping[str, object]:
        """What the graphs of these networks follow from beside the shapes of a call: all but what the weights are filled with."""
        found = {key: value for key, value in asdict(source).items() if key not in ("weight", "strengths", "vae", "graphs")}
        found |= {"networks": networks, "adapters": {name: asdict(adapter) for name, adapter in self.adapters.items()}}
        return json.loads(json.dumps(found, default=str))

    def check(self, model: ModelConfig) -> Mapping[str, tuple]:
        """The shapes of the base weights; UserError unless all files are of this model."""
        shapes, _ = sdxl.expected_shapes(model)
        self.base.check(shapes, *self.flags)
        for file in self.files:
            file.check_against_base(shapes)
        return shapes
