"""LoRA as a network has it: which modules get one, the first values of the matrices, and their state.

Where the matrices sit in a layer is layers.py (`Adapted`); LoRA of files are gm/checkpoint/lora_stack.py.
"""

from __future__ import annotations

import difflib
import math
import re
import zlib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Iterable, Mapping, Sequence

import numpy as np

from gm.checkpoint.lora_rules import TEXT_ENCODER_1, TEXT_ENCODER_2, UNET, LoraNames, is_convolution, lora_names
from gm.checkpoint.rules import is_lora
from gm.config.types import Adapter, Adapters, LoraConfig, ModelConfig
from gm.errors import UserError
from gm.randomness import LORA_INIT, generator

if TYPE_CHECKING:  # the commands on files alone do without it
    from mindspore import Parameter, nn

NETWORKS = {"unet": UNET, "text_encoder_1": TEXT_ENCODER_1, "text_encoder_2": TEXT_ENCODER_2}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")  # the usual targets


def is_used(model: ModelConfig, name: str) -> bool:
    """Whether SDXL uses what this parameter's layer gives: of the first text encoder's last layers it does not, and a LoRA there
    stays untrained."""
    if not name.startswith(TEXT_ENCODER_1):
        return True
    layer = re.search(r"\.encoder\.layers\.(\d+)\.", name)
    return layer is None or all(int(layer[1]) < one.layer_idx for one in model.text_encoders if one.kind == "clip")


def adapters_of(model: ModelConfig, lora: Mapping[str, LoraConfig]) -> Adapters:
    """The adapters that a YAML asks for: network (a key of NETWORKS) -> its LoRA. UserError for a pattern without a module, and
    where a rank for convolutions meets none."""
    found = {}
    for network, config in lora.items():
        modules = _targets(lora_names(model), NETWORKS[network], config)
        if (config.conv_rank or config.conv_alpha) and not any(map(_has_conv_rank, modules)):
            patterns = ", ".join(config.targets)
            raise UserError(f"lora_conv_dim is for convolutions, but no pattern of lora_targets ({patterns}) matches one")
        ranks = _ranks_and_alphas(modules, NETWORKS[network], config)
        for module, (rank, alpha) in ranks.items():
            found[module] = Adapter(
                rank=rank,
                alpha=alpha * math.sqrt(rank)
                if config.rslora
                else alpha,  # so that alpha / rank is rsLoRA's alpha / sqrt(rank)
                dropout=config.dropout,
                kind=config.kind,
                neuron_dropout=config.neuron_dropout,
                rank_dropout=config.rank_dropout,
                module_dropout=config.module_dropout,
            )
    return found


def _targets(names: LoraNames, network: str, config: LoraConfig) -> list[str]:
    """Native names of the network's modules that get a LoRA."""
    linear = [module for module in names.modules if module.startswith(network)]
    if config.targets == "attention":
        return [module for module in linear if module.endswith(ATTENTION)]
    if config.targets == "linear":
        return linear
    every = [module for module in names.all if module.startswith(network)]
    if config.targets == "all":
        return every
    matching = set()
    for pattern in config.targets:
        matching |= set(_matching(pattern, every, network, "lora_targets"))
    return [module for module in every if module in matching]


def _matching(pattern: str, modules: Sequence[str], network: str, key: str) -> list[str]:
    """The modules whose names within the network match; UserError where there are none."""
    inner = {module: module.removeprefix(network) for module in modules}
    found = [module for module, name in inner.items() if fnmatchcase(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, list(inner.values()), 1, 0.0)[0]
        raise UserError(f"{key} has the pattern {pattern!r}, which matches no module of the network: one is called {near!r}")
    return found


def _has_conv_rank(module: str) -> bool:
    """Whether it is a convolution larger than 1 x 1, as sd-scripts tells the two ranks apart."""
    return is_convolution(module) and not module.endswith(".skip_connection")


def _ranks_and_alphas(modules: Sequence[str], network: str, config: LoraConfig) -> dict[str, tuple[int, float]]:
    """module -> rank and alpha, before rsLoRA."""
    found = {}
    for module in modules:
        rank, alpha = config.rank, config.alpha
        if _has_conv_rank(module):
            rank, alpha = config.conv_rank or rank, config.conv_alpha or alpha
        found[module] = rank, alpha
    for part in config.parts:
        for module in _matching(part.pattern, modules, network, "lora_parts"):
            rank, alpha = found[module]
            found[module] = part.rank or rank, part.alpha or alpha
    return found


def lora_facts(adapters: Adapters) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """What a file says of its LoRA: the metadata, rank and alpha where all have the same, and else tensors `<module>.alpha`."""
    ranks, alphas = ({getattr(adapter, key) for adapter in adapters.values()} for key in ("rank", "alpha"))
    about = {"lora_rank": str(ranks.pop())} if len(ranks) == 1 else {}
    if len(alphas) == 1:
        return {**about, "lora_alpha": str(alphas.pop())}, {}
    return about, {f"{module}.alpha": np.array(adapter.alpha, np.float32) for module, adapter in adapters.items()}


def initial_value(name: str, shape: tuple, seed: int) -> np.ndarray:
    """A uniform in +-1/sqrt(in) (Kaiming with a = sqrt(5), as the LoRA authors' code), of a convolution in * h * w, B zero; keyed
    by seed and name, so that it is the same on every rank and whatever else is built."""
    if name.endswith(".lora_B.weight"):
        return np.zeros(shape, np.float32)
    bound = 1.0 / np.sqrt(math.prod(shape[1:]))
    return generator(seed, LORA_INIT, zlib.crc32(name.encode())).uniform(-bound, bound, shape).astype(np.float32)


def lora_parameters(cells: Iterable[nn.Cell]) -> list[Parameter]:
    """All LoRA parameters of `cells`, in network order."""
    return [p for cell in cells for p in cell.get_parameters() if is_lora(p.name)]


def lora_state(cells: Iterable[nn.Cell]) -> dict[str, np.ndarray]:
    """All LoRA matrices of `cells` by name, trained or not."""
    return {p.name: p.asnumpy().astype(np.float32) for p in lora_parameters(cells)}
