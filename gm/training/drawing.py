"""Pictures by the network that trains: one sampler for progress pictures and evaluations, so one graph where their sizes agree."""

from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Callable, Iterable, Iterator, Mapping, Optional, Sequence

import numpy as np
from mindspore import Tensor, nn

from gm.encoding.text import TextEmbedder, TextEmbedding
from gm.models.adapters import lora_parameters
from gm.models.conditioner import TextEncoders
from gm.models.unet import UNet
from gm.models.vae import VAE
from gm.sampling.pictures import PictureSampler
from gm.training import networks
from gm.training.setting import Setting

Texts = Callable[[Sequence[str]], Mapping[str, TextEmbedding]]  # prompts -> how the UNet takes them


@dataclass(frozen=True)
class Drawing:
    """What pictures are sampled with."""

    sampler: PictureSampler
    texts: Texts


def drawing(
    setting: Setting,
    unet: UNet,
    vae: VAE,
    text_encoders: Optional[TextEncoders],
    texts: Mapping[str, TextEmbedding],
    unet_texts: Mapping[str, TextEmbedding],
) -> Drawing:
    """Prompts are embedded by `text_encoders` where those train, each time anew. Otherwise they are in `texts`; those that are
    trained on are in `unet_texts` as the UNet takes them, with products that may be large, so others get theirs when they
    are drawn.
    """
    inputs = setting.inputs
    embedder = TextEmbedder(text_encoders, inputs.config.data.max_tokens) if text_encoders is not None else None

    @lru_cache(maxsize=2)  # a prompt and its negative
    def widened(prompt: str) -> TextEmbedding:
        return networks.widened(setting, unet, {prompt: texts[prompt]})[prompt]

    def known(prompts: Sequence[str]) -> dict[str, TextEmbedding]:
        return {prompt: unet_texts[prompt] if prompt in unet_texts else widened(prompt) for prompt in prompts}

    return Drawing(PictureSampler(unet, vae, inputs.config.model), embedder or known)


@contextmanager
def without_lora(cells: Iterable[nn.Cell], untrained: Callable[[str], np.ndarray]) -> Iterator[None]:
    """In the body the networks are those of the base model. `untrained(name)`: a LoRA parameter's value that changes nothing."""
    changed = [p for p in lora_parameters(cells) if not p.name.endswith(".lora_A.weight")]  # B is 0, whatever A is
    before = [p.asnumpy().copy() for p in changed]
    try:
        for p in changed:
            p.set_data(Tensor(untrained(p.name), p.dtype))
        yield
    finally:
        for p, value in zip(changed, before):
            p.set_data(Tensor(value, p.dtype))
