"""Building SDXL's three networks without memory, naming their parameters, and filling them from files.

The networks stay apart (text encoders, VAE, UNet) so that each can be loaded when it is needed and freed after.
"""

import mmap
from concurrent.futures import ThreadPoolExecutor
from typing import Iterable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, nn
from mindspore.nn.utils import no_init_parameters

from gm.checkpoint.finite import count_not_finite
from gm.checkpoint.rules import is_lora
from gm.config.types import Adapters, ModelConfig
from gm.console import bar
from gm.errors import UserError
from gm.models.adapters import is_used
from gm.models.conditioner import CONDITIONER_PREFIX, TextEncoders
from gm.models.site import Site, check_adapters
from gm.models.text_products import TextProducts
from gm.models.unet import UNET_PREFIX, UNet
from gm.models.vae import VAE, VAE_PREFIX


def _name(cell: nn.Cell, site: Site) -> nn.Cell:
    """Give every parameter of the network its full native name, and freeze all but LoRA."""
    for name, parameter in cell.parameters_and_names():
        parameter.name = f"{site.name}.{name}"
        parameter.requires_grad = is_lora(name)
    cell.set_train(False)
    check_adapters(site.adapters, site.name, [parameter.name for parameter in cell.get_parameters()])
    return cell


def build_unet(config: ModelConfig, dtype: ms.Type = ms.float32, adapters: Adapters = {}, text_products: bool = False) -> UNet:
    """The UNet with empty weights; `dtype` is its compute type. With `text_products` it has no weights for them, and takes
    contexts that text_products.widen has made, of `unet.context_width` columns."""
    products = TextProducts(config.unet.context_dim) if text_products else None
    site = Site(UNET_PREFIX.rstrip("."), dtype, adapters, products)
    with no_init_parameters():
        unet = _name(UNet(site, config.unet), site)
    unet.text_products, unet.context_width = products, products.width if products else config.unet.context_dim
    return unet


def build_vae(config: ModelConfig) -> VAE:
    with no_init_parameters():
        return _name(VAE(config.vae), Site(VAE_PREFIX.rstrip("."), ms.float32, {}))


def build_text_encoders(config: ModelConfig, dtype: ms.Type = ms.float32, adapters: Adapters = {}) -> TextEncoders:
    """The text encoders with empty weights. LoRA in layers whose output SDXL does not use stays untrained."""
    site = Site(CONDITIONER_PREFIX.rstrip("."), dtype, adapters)
    with no_init_parameters():
        cell = _name(TextEncoders(site, config), site)
    for parameter in cell.get_parameters():
        parameter.requires_grad = parameter.requires_grad and is_used(config, parameter.name)
    return cell


def expected_shapes(config: ModelConfig, adapters: Adapters = {}) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """Names and shapes of the base weights and of the LoRA matrices that this model has; takes no weight memory."""
    shapes = {}
    for cell in (build_unet(config, adapters=adapters), build_vae(config), build_text_encoders(config, adapters=adapters)):
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
    """Set each parameter from `read(name) -> array`, converted to its own type. `read` is called by threads. UserError where a
    number is not finite then.

    `progress`: parameters -> the same, one by one: a bar.
    """

    def converted(parameter: Parameter) -> np.ndarray:
        array = read(parameter.name)
        if tuple(array.shape) != tuple(parameter.shape):
            raise AssertionError(f"{parameter.name}: {array.shape} given, {parameter.shape} needed")
        own = _memory(array.shape, np.float16 if parameter.dtype == ms.float16 else np.float32)
        with np.errstate(over="ignore"):
            own[...] = array
        count = count_not_finite(own.data.cast("B") if own.size else b"", own.dtype.name)
        if count:
            raise UserError(
                f"{parameter.name} has {count:,} numbers that are not finite in {own.dtype}, its weights or a LoRA at this "
                "strength are too large: give others, or a smaller strength"
            )
        return own

    pool = ThreadPoolExecutor(LOADERS)
    try:
        arrays = pool.map(converted, parameters)
        for parameter in progress(parameters) if progress else parameters:
            parameter.set_data(ms.from_numpy(next(arrays)))  # the parameter's memory is the array's: no copy
    finally:
        pool.shutdown(cancel_futures=True)


def share_parameters(cell: nn.Cell, other: nn.Cell) -> nn.Cell:
    """Give every layer of `cell`, before its first call, the parameter of `other` with the same name; returns it."""
    theirs = {parameter.name: parameter for parameter in other.get_parameters()}
    for _, part in cell.cells_and_names():
        for own, parameter in list(part.parameters_and_names(expand=False)):
            setattr(part, own, theirs[parameter.name])
    return cell


def load(cell: nn.Cell, read, what: str) -> nn.Cell:
    """`fill` one network with a progress bar that says what it is; returns it."""
    fill([cell], read, lambda items: bar(items, f"loading {what}", unit="tensor", leave=False))
    return cell
