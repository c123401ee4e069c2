"""A model ready for sampling: base weights with any LoRA in them, loaded in the order that needs least memory."""

from typing import Iterable, Optional, Sequence

import numpy as np

from gm import lora
from gm.apart import run_apart
from gm.config import ModelConfig
from gm.models import sdxl
from gm.runtime import Runtime
from gm.sampling import PictureSampler, SampleSettings, Text, TextEmbedder, unconditional


class Pipeline:
    """Weights -> `embed` prompts -> `load` -> `sample`. Making it checks the files; nothing is loaded yet.

    LoRA files are merged into the weights, unless the YAML is one with LoRA and `lora_merge_weights: False`: then they
    stay apart as two matrices where the files have them, as in training. Both give the same pictures up to rounding.
    """

    def __init__(
        self,
        model: ModelConfig,
        weight: str,
        machine: Runtime,
        scales: Sequence[float] = (),
        use_lora: bool = True,
        vae: Optional[str] = None,
    ):
        """`scales`: what each LoRA is multiplied by, that of a base + LoRA file first; () for 1 each. `use_lora=False`
        leaves aside LoRA that the base file holds. `vae`: another first stage than the base's."""
        self.arguments = (model, weight, machine, scales, use_lora, vae)
        alpha = model.lora.alpha if model.lora else None
        self.base, stack = lora.open_weights(weight, scales, model, alpha, use_lora, vae)
        self.model, self.machine = sdxl.without_lora(model), machine
        base_shapes, _ = sdxl.expected_shapes(self.model)
        self.base.check(base_shapes)
        for file in stack.files:
            file.check_against_base(base_shapes)
        separate = model.lora is not None and not model.lora.merge_weights
        self.lora_ranks = stack.ranks if separate else {}
        self.read = lora.with_given_lora(self.base.read, stack.read) if separate else lora.merged(self.base.read, stack)
        self.texts: dict[str, Text] = {}

    def embed(self, prompts: Iterable[str]) -> None:
        """Embed the prompts, in a process of its own: the text encoders are not needed afterwards."""
        self.texts |= run_apart(embed_prompts, list(prompts), *self.arguments)

    def load(self) -> None:
        """Load the UNet and the VAE."""
        unet = sdxl.load(sdxl.build_unet(self.model, self.machine.dtype, self.lora_ranks), self.read, "UNet")
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
    prompts: Sequence[str],
    model: ModelConfig,
    weight: str,
    machine: Runtime,
    scales: Sequence[float] = (),
    use_lora: bool = True,
    vae: Optional[str] = None,
) -> dict[str, Text]:
    """Load the text encoders and embed the prompts, in the process that calls it."""
    machine.enter()
    pipeline = Pipeline(model, weight, machine, scales, use_lora, vae)
    cell = sdxl.build_text_encoders(pipeline.model, machine.dtype, pipeline.lora_ranks)
    return TextEmbedder(sdxl.load(cell, pipeline.read, "text encoders"))(prompts)
