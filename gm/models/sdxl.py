"""Building SDXL's three networks without memory, naming their parameters, and filling them from files.

The networks stay apart (text encoders, VAE, UNet) so that each can be loaded when it is needed and freed after.
"""

import mmap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Iterable, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore.nn.utils import no_init_parameters

from gm.checkpoint.rules import is_lora
from gm.config.types import LoraConfig, ModelConfig
from gm.console import bar
from gm.models.conditioner import CONDITIONER_PREFIX, TextEncoders
from gm.models.layers import Linear
from gm.models.unet import UNET_PREFIX, UNet
from gm.models.vae import VAE, VAE_PREFIX


def _name(cell: nn.Cell, prefix: str) -> nn.Cell:
    """Give every parameter its full native name, and freeze all but LoRA."""
    for name, parameter in cell.parameters_and_names():
        parameter.name = prefix + name
        parameter.requires_grad = is_lora(name)
    cell.set_train(False)
    return cell


def _add_lora(cell: nn.Cell, prefix: str, ranks: Mapping[str, int]) -> nn.Cell:
    """Put LoRA of these ranks into the linear layers with these native names, with alpha = rank."""
    for name, child in list(cell.cells_and_names()):
        rank = ranks.get(prefix + name)
        if rank and isinstance(child, Linear):
            child.add_lora(LoraConfig(rank, float(rank)))
    return cell


def build_unet(
    config: ModelConfig, dtype: ms.Type = ms.float32, lora_ranks: Mapping[str, int] = {}, text_products: bool = False
) -> UNet:
    """The UNet with empty weights; `dtype` is its compute type. `lora_ranks`: native module name -> rank of LoRA to put
    there besides what `config` says. With `text_products` it takes contexts that `add_text_products` has widened."""
    with no_init_parameters():
        return _name(_add_lora(UNet(config.unet, dtype, text_products), UNET_PREFIX, lora_ranks), UNET_PREFIX)


def build_vae(config: ModelConfig) -> VAE:
    with no_init_parameters():
        return _name(VAE(config.vae), VAE_PREFIX)


def build_text_encoders(
    config: ModelConfig, dtype: ms.Type = ms.float32, lora_ranks: Mapping[str, int] = {}
) -> TextEncoders:
    """Both encoders with empty weights; `lora_ranks` as in `build_unet`. LoRA in layers whose output SDXL does not use
    stays untrained."""
    with no_init_parameters():
        cell = _name(_add_lora(TextEncoders(config, dtype), CONDITIONER_PREFIX, lora_ranks), CONDITIONER_PREFIX)
    layers = list(cell.embedders[0].transformer.text_model.encoder.layers)
    for layer in layers[config.text_encoders[0].layer_idx :]:
        for parameter in layer.get_parameters():
            parameter.requires_grad = False
    return cell


def expected_shapes(config: ModelConfig) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """Names and shapes of the base weights and of the LoRA matrices that this model has; takes no weight memory."""
    shapes = {}
    for cell in (build_unet(config), build_vae(config), build_text_encoders(config)):
        shapes.update({parameter.name: tuple(parameter.shape) for parameter in cell.get_parameters()})
    base = {name: shape for name, shape in shapes.items() if not is_lora(name)}
    return base, {name: shape for name, shape in shapes.items() if is_lora(name)}


LOADERS = 2  # threads that read and convert weights; most of the time goes to memory that is touched for the first time
LARGE = 2**22  # bytes


def _memory(shape: tuple, dtype: type) -> np.ndarray:
    """Room for an array. numpy would ask for huge pages for a large one: on a virtual machine their first use took five
    times as long (2.1 s a GB, ordinary pages 0.4 s), and the products were not faster for it."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size < LARGE:
        return np.empty(shape, dtype)
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype).reshape(shape)


def fill(cells: Iterable[nn.Cell], read, progress=None) -> None:
    """`set_values` for every parameter of `cells`."""
    for cell in cells:
        set_values(list(cell.get_parameters()), read, progress)


def set_values(parameters: Sequence[Parameter], read, progress=None) -> None:
    """Set each parameter from `read(name) -> array`, converted to its own type. `read` is called by threads.

    `progress`: parameters -> the same, one by one: a bar.
    """

    def converted(parameter: Parameter) -> np.ndarray:
        array = read(parameter.name)
        if tuple(array.shape) != tuple(parameter.shape):
            raise AssertionError(f"{parameter.name}: {array.shape} given, {parameter.shape} needed")
        own = _memory(array.shape, np.float16 if parameter.dtype == ms.float16 else np.float32)
        own[...] = array
        return own

    pool = ThreadPoolExecutor(LOADERS)
    try:
        arrays = pool.map(converted, parameters)
        for parameter in progress(parameters) if progress else parameters:
            parameter.set_data(Tensor.from_numpy(next(arrays)))  # the parameter's memory is the array's: no copy
    finally:
        pool.shutdown(cancel_futures=True)


def add_text_products(unet: UNet, contexts: np.ndarray, read) -> np.ndarray:
    """Contexts (P, 77, context_dim) with what a UNet built with `text_products` needs behind them, float32
    (P, 77, unet.context_width). `read` as in `fill`, for the weights that the UNet itself does not hold."""
    layers = [(name, cell.outputs) for name, cell in unet.cells_and_names() if isinstance(cell, Linear) and cell.known]
    ends = np.cumsum([contexts.shape[-1], *(outputs for _, outputs in layers)])
    assert ends[-1] == unet.context_width
    wide = np.empty((*contexts.shape[:2], unet.context_width), np.float32)
    wide[..., : ends[0]] = contexts
    flat = wide.reshape(-1, unet.context_width)
    rows = np.array(flat[:, : ends[0]])

    def put(number: int) -> None:
        weight = read(f"{UNET_PREFIX}{layers[number][0]}.weight")
        flat[:, ends[number] : ends[number + 1]] = rows @ np.asarray(weight, np.float32).T

    with ThreadPoolExecutor(LOADERS) as pool:
        list(pool.map(put, range(len(layers))))
    return wide


def load(cell: nn.Cell, read, what: str) -> nn.Cell:
    """`fill` one network with a progress bar that says what it is; returns it."""
    fill([cell], read, lambda items: bar(items, f"loading {what}", unit="tensor", leave=False))
    return cell


def without_lora(model: ModelConfig) -> ModelConfig:
    """The same model as plain SDXL."""
    encoders = tuple(replace(encoder, lora=None) for encoder in model.text_encoders)
    return replace(model, unet=replace(model.unet, lora=None), text_encoders=encoders)
