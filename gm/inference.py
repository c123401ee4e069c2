"""A model ready for sampling: base weights with any LoRA in them, loaded in the order that needs least memory."""

from typing import Iterable, Optional, Sequence

import numpy as np

from gm import lora
from gm.apart import run_apart
from gm.checkpoint.weights import open_base, open_lora, split_weight_argument
from gm.config import ModelConfig
from gm.models import sdxl
from gm.runtime import Runtime
from gm.sampling import PictureSampler, SampleSettings, Text, TextEmbedder, unconditional


class Pipeline:
    """Weights -> `embed` prompts -> `load` -> `sample`. Making it checks the files; nothing is loaded yet.

    A LoRA is merged into the weights, unless the YAML is one with LoRA and `lora_merge_weights: False`: then it stays
    apart as two matrices, as in training. Both give the same pictures up to rounding.
    """

    def __init__(self, model: ModelConfig, weight: str, vae: Optional[str], machine: Runtime, use_lora: bool = True):
        """`vae`: another first stage than the base's. `use_lora=False` leaves aside LoRA that the base file holds."""
        self.config, self.weight, self.vae, self.use_lora = model, weight, vae, use_lora
        base_path, lora_paths = split_weight_argument(weight)
        self.base = open_base(base_path, vae)
        self.loras = [open_lora(path) for path in lora_paths]
        if use_lora and self.base.lora_names():
            self.loras.insert(0, self.base.as_lora())
        separate = len(self.loras) == 1 and model.lora is not None and not model.lora.merge_weights
        self.model = model if separate else sdxl.without_lora(model)
        self.machine = machine
        base_shapes, lora_shapes = sdxl.expected_shapes(self.model)
        self.base.check(base_shapes)
        self.read = self.base.read
        for file in self.loras:
            if separate:
                file.check(lora_shapes, model.lora.alpha)
                self.read = lora.with_given_lora(self.read, file.read)
            else:
                file.check_against_base(base_shapes)
                self.read = lora.merged(self.read, file.names(), file.read, file.scale(model.lora))
        self.texts: dict[str, Text] = {}

    def embed(self, prompts: Iterable[str]) -> None:
        """Embed the prompts, in a process of its own: the text encoders are not needed afterwards."""
        self.texts |= run_apart(embed_prompts, self.config, self.weight, self.vae, self.machine, list(prompts), self.use_lora)

    def load(self) -> None:
        """Load the UNet and the VAE."""
        unet = sdxl.load(sdxl.build_unet(self.model, self.machine.dtype), self.read, "UNet")
        vae = sdxl.load(sdxl.build_vae(self.model), self.read, "VAE")
        self.pictures = PictureSampler(unet, vae, self.model)

    def sample(self, prompt: str, negative_prompt: str, settings: SampleSettings, seed: int, what: str) -> np.ndarray:
        """One picture (h, w, 3) uint8; both prompts must have been embedded.

        By itself, not in a batch: then the same seed gives the same pixels however many pictures are asked for.
        """
        text = self.texts[prompt]
        negative = self.texts[negative_prompt] if negative_prompt else unconditional(text)
        return self.pictures(text, negative, settings, [seed], what)[0]


def embed_prompts(
    model: ModelConfig, weight: str, vae: Optional[str], machine: Runtime, prompts: Sequence[str], use_lora: bool
) -> dict[str, Text]:
    """Load the text encoders and embed the prompts, in the process that calls it."""
    machine.enter()
    pipeline = Pipeline(model, weight, vae, machine, use_lora)
    encoders = sdxl.load(sdxl.build_text_encoders(pipeline.model, machine.dtype), pipeline.read, "text encoders")
    return TextEmbedder(encoders)(prompts)
