"""A model ready for sampling: base weights with any LoRA in them, loaded in the order that needs least memory, or kept
loaded while LoRA come and go."""

import json
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import ContextManager, Iterable, Iterator, Mapping, Optional, Sequence, Union

import numpy as np

from gm import memory
from gm.checkpoint.lora_files import open_lora
from gm.checkpoint.lora_stack import LoraStack, merged
from gm.checkpoint.lora_strength import Strength, Strengths, as_strength
from gm.config.types import SampleSettings
from gm.encoding.compiling import keeping_graphs
from gm.encoding.source import Source
from gm.encoding.text import (
    TextEmbedder,
    TextEmbedding,
    embed_apart,
    embed_in_full,
    load_embedder,
    require_readable,
    unconditional,
)
from gm.errors import UserError
from gm.models import sdxl
from gm.models.unet import UNET_PREFIX
from gm.models.vae import VAE_PREFIX
from gm.options.lora_tags import OwnLora
from gm.runtime import full_precision
from gm.sampling.full_precision import in_float32
from gm.sampling.lora_schedule import scheduled
from gm.sampling.lora_words import tell_of_lora
from gm.sampling.pictures import PictureSampler
from gm.sampling.start import Start
from gm.soundness import NotFinite


class Pipeline:
    """Weights -> `embed` prompts -> `load` -> `sample`. Making it checks the files; nothing is loaded yet.

    LoRA files are merged into the weights, or stay apart from them, as the source says. Both give the same pictures up to
    rounding.

    To keep it for many pictures: `load(keep_text_encoders=True)`, then any of `change_lora`, `embed` and `sample`.
    """

    def __init__(self, source: Source):
        self.source, self.model = source, source.model
        self.now = source  # with the LoRA that `change_lora` put on
        self.weights = source.open()
        self.base_shapes, self.read = self.weights.check(source.model), self.weights.read
        self.texts: dict[str, TextEmbedding] = {}
        self.embedder: Optional[TextEmbedder] = None
        self.unloaded = self.bytes = _bytes_to_load(source, self.base_shapes)
        self.added: object = ()  # the LoRA that `change_lora` put on; None while it is at work
        self.changed: set[str] = set()  # the weights that differ from those of the source for that

    def require_memory(self, settings: Iterable[SampleSettings], rows: int = 1) -> None:
        """UserError where pictures like these, `rows` of them at once, cannot fit into the memory that there is now."""
        largest = max(settings, key=lambda one: one.height * one.width)
        memory.require_for_sampling(self.model, largest, rows, self.source.machine, self.unloaded)

    def rows_that_fit(self, settings: SampleSettings, most: int) -> int:
        """Pictures that are made at once where nobody says how many."""
        machine = self.source.machine
        return 1 if machine.device == "CPU" else memory.rows_that_fit(self.model, settings, machine, self.bytes, most)

    @property
    def encodes_nothing(self) -> bool:
        """Whether an empty negative prompt is encoded, as any other."""
        return self.model.is_refiner or self.source.prompt_style == "comfyui"

    def require_readable(self, prompts: Iterable[str]) -> None:
        """UserError for a prompt that has no meaning in the style of the source."""
        require_readable(prompts, self.source, self.weights.vocabulary)

    def embed(self, prompts: Iterable[str]) -> None:
        """Embed the prompts, in a process of its own, because the text encoders are not needed afterwards, unless they are
        kept here: then only what was not embedded the last time."""
        prompts = list(dict.fromkeys([*prompts, *([""] if self.encodes_nothing else [])]))
        self.texts = {prompt: self.texts[prompt] for prompt in prompts if prompt in self.texts}
        new = [prompt for prompt in prompts if prompt not in self.texts]
        if new and self.embedder:
            self.texts |= self._embed_here(self.embedder, new)
        elif new:
            self.texts |= embed_apart(new, replace(self.source, machine=self.source.machine.beside()))

    def _embed_here(self, embedder: TextEmbedder, prompts: Sequence[str]) -> dict[str, TextEmbedding]:
        try:
            return embedder(prompts)
        except NotFinite:
            if full_precision(self.source.machine) == self.source.machine:
                raise
            return embed_in_full(prompts, replace(self.now, machine=self.source.machine.beside()))

    def load(self, keep_text_encoders: bool = False) -> None:
        """Load the UNet and the VAE, and the text encoders if they are to be kept."""
        if keep_text_encoders:
            self.embedder = load_embedder(self.source, self.weights)
        unet = sdxl.build_unet(self.model, self.source.machine.dtype, self.weights.adapters)
        unet = sdxl.load(unet, self.read, "UNet")
        vae = sdxl.load(sdxl.build_vae(self.model), self.read, "VAE")
        self.pictures = scheduled(PictureSampler(unet, vae, self.model, in_float32(self.source)), self.weights)
        self.unloaded = 0

    def change_lora(
        self, paths: Sequence[str], strength: Union[Strength, float, Sequence[Union[Strength, float]]] = 1.0
    ) -> None:
        """Put these LoRA files, each at its strength or all at the one given, on the loaded networks instead of those put on
        before; without paths, take them off. They are added to the weights, so they have no schedule; only weights that change are
        written, and no graph is compiled again. LoRA of `source.weight` stays. UserError, and no change, when a file does not fit.
        """
        assert self.embedder, "LoRA can be changed where the text encoders are kept"
        given = [strength] * len(paths) if isinstance(strength, (Strength, int, float)) else strength
        strengths = list(map(as_strength, given))
        with self._opened(paths, strengths) as stack:
            states = [(str(file.path), file.path.stat().st_mtime_ns, file.path.stat().st_size) for file in stack.files]
            wanted = tuple(zip(states, strengths))
            if wanted == self.added:
                return
            self.added, self.texts = None, {}  # not known when this is interrupted
            now = {f"{module}.weight" for module in stack.ranks}
            self.changed |= now
            cells = (self.embedder.call.cell, self.pictures.sampler.denoiser.cell)
            parameters = [p for cell in cells for p in cell.get_parameters() if p.name in self.changed]
            sdxl.set_values(parameters, merged(self.read, stack))
        self.added, self.changed = wanted, now
        weight = ",".join([self.source.weight, *map(str, paths)])
        self.now = replace(self.source, weight=weight, strengths=Strengths.of([*self.weights.stack.strengths, *strengths]))
        self.pictures.again = in_float32(self.now)

    @contextmanager
    def _opened(self, paths: Sequence[str], strengths: Sequence[Strength]) -> Iterator[LoraStack]:
        """LoRA files to be put on, open in the body; UserError when one does not fit."""
        with ExitStack() as opened:
            files = [opened.enter_context(open_lora(path, self.model)) for path in paths]
            stack = LoraStack(files, strengths, self.source.alpha)
            for file in files:
                file.check_against_base(self.base_shapes)
            Strengths.of(strengths).check([file.modules for file in files], ",".join(map(str, paths)))
            if self.weights.stack.is_scheduled and not stack.can_stay_apart:
                dora = next(file.path for file in files if file.is_dora)
                raise UserError(
                    f"{dora} is a DoRA, which cannot be put on beside LoRA with a --lora_schedule: leave one of them away"
                )
            assert not stack.is_scheduled, "what is put on is added to the weights"
            yield stack

    def tell_of_lora(self, prompts: Iterable[str], own: OwnLora = ()) -> None:
        """Say which LoRA act on these prompts, those of the source, or `own` ones that are to be put on; UserError when one of
        these does not fit."""
        if not own:
            return tell_of_lora(self.weights.stack, prompts)
        with self._opened(*zip(*own)) as stack:
            tell_of_lora(stack, prompts)

    def put_on(self, own: OwnLora, prompts: Iterable[str]) -> None:
        """Change the LoRA to a prompt's own, and embed prompts with them."""
        self.change_lora([path for path, _ in own], [strength for _, strength in own])
        self.embed(prompts)

    def keeping_graphs(self, batches: Sequence[tuple]) -> ContextManager[None]:
        """In the body, the graphs of these batches, in this order, come from the folder that the source names, and are kept there.
        Each a picture's settings, how many are made at once, and what else decides which graphs there are."""
        shapes = [[one.height, one.width, count, one.guider, *one.guided_steps, *more] for one, count, *more in batches]
        wanted = list(dict.fromkeys(json.dumps(shape) for shape in shapes))
        networks = "text encoders, UNet, VAE" if self.embedder else "UNet, VAE"
        return keeping_graphs(self.source.graphs, {**self.weights.decides(self.source, networks), "batches": wanted})

    def sample(self, prompt: str, negative_prompt: str, settings: SampleSettings, seed: int, what: str) -> np.ndarray:
        """One picture (h, w, 3) uint8; both prompts must have been embedded.

        By itself, not in a batch: then the same seed gives the same pixels however many pictures are asked for.
        """
        return self.sample_batch([prompt], [negative_prompt], settings, [seed], what)[0]

    def sample_batch(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        settings: SampleSettings,
        seeds: Sequence[int],
        what: str,
        start: Start = Start(),
    ) -> list[np.ndarray]:
        """Pictures at once, each with texts and a seed of its own, whose texts are equally long. On the CPU a picture of a batch
        differs from one alone by rounding: in 1 of 20,000 numbers, by 1 of 255."""
        texts, negatives = self.texts_of(prompts, negative_prompts)
        return self.pictures(texts, negatives, settings, seeds, what, start)

    def texts_of(
        self, prompts: Sequence[str], negative_prompts: Sequence[str]
    ) -> tuple[list[TextEmbedding], list[TextEmbedding]]:
        """The embeddings of prompts and negative prompts. The base was trained with zeros for an empty negative prompt, the refiner
        with its embedding (sgm `force_uc_zero_embeddings`), which ComfyUI takes for the base as well."""
        texts = [self.texts[prompt] for prompt in prompts]
        negatives = [
            self.texts[one] if one or self.encodes_nothing else unconditional(text)
            for one, text in zip(negative_prompts, texts)
        ]
        return texts, negatives


def _bytes_to_load(source: Source, shapes: Mapping[str, tuple]) -> int:
    """Of the UNet and the VAE."""
    number = 2 if source.machine.amp_level == "O2" else memory.FLOAT
    return memory.weights(shapes, UNET_PREFIX, number) + memory.weights(shapes, VAE_PREFIX, memory.FLOAT)
