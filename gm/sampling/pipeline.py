"""A model ready for sampling: base weights with any LoRA in them, loaded in the order that needs least memory, or kept
loaded while LoRA come and go."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Iterable, Optional, Sequence

import numpy as np

from gm.checkpoint import lora_stack as lora
from gm.process import run_in_subprocess
from gm.checkpoint.lora_files import open_lora
from gm.config.types import ModelConfig, SampleSettings
from gm.models import sdxl
from gm.runtime import Runtime
from gm.sampling.pictures import PictureSampler, Text, TextEmbedder, unconditional


@dataclass(frozen=True)
class Source:
    """What pictures are made from, and where; picklable."""

    model: ModelConfig
    weight: str  # base[,lora,...]
    machine: Runtime
    scales: Sequence[float] = ()  # what each LoRA is multiplied by, that of a base + LoRA file first; () for 1 each
    use_lora: bool = True  # False leaves aside LoRA that the base file holds
    vae: Optional[str] = None  # another first stage than the base's


class Pipeline:
    """Weights -> `embed` prompts -> `load` -> `sample`. Making it checks the files; nothing is loaded yet.

    LoRA files are merged into the weights, unless the YAML is one with LoRA and `lora_merge_weights: False`: then they
    stay apart as two matrices where the files have them, as in training. Both give the same pictures up to rounding.

    To keep it for many pictures: `load(keep_text_encoders=True)`, then any of `change_lora`, `embed` and `sample`.
    """

    def __init__(self, source: Source):
        self.source, model = source, source.model
        self.alpha = model.lora.alpha if model.lora else None
        self.base, stack = lora.open_weights(
            source.weight, source.scales, model, self.alpha, source.use_lora, source.vae
        )
        self.model = sdxl.without_lora(model)
        self.base_shapes, _ = sdxl.expected_shapes(self.model)
        self.base.check(self.base_shapes)
        for file in stack.files:
            file.check_against_base(self.base_shapes)
        separate = model.lora is not None and not model.lora.merge_weights
        self.lora_ranks = stack.ranks if separate else {}
        self.read = lora.with_given_lora(self.base.read, stack.read) if separate else lora.merged(self.base.read, stack)
        self.texts: dict[str, Text] = {}
        self.embedder: Optional[TextEmbedder] = None
        self.added: object = ()  # the LoRA that `change_lora` put on; None while it is at work
        self.changed: set[str] = set()  # the weights that differ from `read` for that

    def embed(self, prompts: Iterable[str]) -> None:
        """Embed the prompts, in a process of its own, because the text encoders are not needed afterwards, unless they are
        kept here: then only what was not embedded the last time."""
        prompts = list(dict.fromkeys(prompts))
        self.texts = {prompt: self.texts[prompt] for prompt in prompts if prompt in self.texts}
        new = [prompt for prompt in prompts if prompt not in self.texts]
        if new:
            self.texts |= self.embedder(new) if self.embedder else run_in_subprocess(embed_prompts, new, self.source)

    def load_text_encoders(self) -> None:
        """Load the text encoders, so that `embed` uses them."""
        cell = sdxl.build_text_encoders(self.model, self.source.machine.dtype, self.lora_ranks)
        self.embedder = TextEmbedder(sdxl.load(cell, self.read, "text encoders"))

    def load(self, keep_text_encoders: bool = False) -> None:
        """Load the UNet and the VAE, and the text encoders if they are to be kept."""
        if keep_text_encoders:
            self.load_text_encoders()
        unet = sdxl.load(sdxl.build_unet(self.model, self.source.machine.dtype, self.lora_ranks), self.read, "UNet")
        vae = sdxl.load(sdxl.build_vae(self.model), self.read, "VAE")
        self.pictures = PictureSampler(unet, vae, self.model)

    def change_lora(self, paths: Sequence[str], strength: float) -> None:
        """Put these LoRA files, each times `strength`, on the loaded networks instead of those put on before; without
        paths, take them off. They are added to the weights; only those that change are written, and no graph is compiled
        again. LoRA of `source.weight` stays. UserError, and no change, when a file does not fit.
        """
        assert self.embedder, "LoRA can be changed where the text encoders are kept"
        with ExitStack() as opened:
            files = [opened.enter_context(open_lora(path, self.source.model)) for path in paths]
            for file in files:
                file.check_against_base(self.base_shapes)
            states = [(str(file.path), file.path.stat().st_mtime_ns, file.path.stat().st_size) for file in files]
            wanted = (*states, strength) if files else ()
            if wanted == self.added:
                return
            self.added, self.texts = None, {}  # not known when this is interrupted
            stack = lora.LoraStack(files, [strength] * len(files), self.alpha)
            now = {f"{module}.weight" for module in stack.ranks}
            self.changed |= now
            cells = (self.embedder.call.cell, self.pictures.latents.denoiser.cell)
            parameters = [p for cell in cells for p in cell.get_parameters() if p.name in self.changed]
            sdxl.set_values(parameters, lora.merged(self.read, stack))
        self.added, self.changed = wanted, now

    def sample(self, prompt: str, negative_prompt: str, settings: SampleSettings, seed: int, what: str) -> np.ndarray:
        """One picture (h, w, 3) uint8; both prompts must have been embedded.

        By itself, not in a batch: then the same seed gives the same pixels however many pictures are asked for.
        """
        text = self.texts[prompt]
        negative = self.texts[negative_prompt] if negative_prompt else unconditional(text)
        return self.pictures(text, negative, settings, [seed], what)[0]


def embed_prompts(prompts: Sequence[str], source: Source) -> dict[str, Text]:
    """Load the text encoders and embed the prompts, in the process that calls it."""
    source.machine.enter()
    pipeline = Pipeline(source)
    pipeline.load_text_encoders()
    pipeline.embed(prompts)
    return pipeline.texts
