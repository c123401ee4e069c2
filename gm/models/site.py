"""Where in a network a layer is built, and so what belongs to it: its native name, its type, what is attached to it.

A network's classes say which layers they have; whether a layer carries LoRA, or has no weight because its product is
given, follows from its name alone, here.
"""

from typing import Iterable, Optional, Union

import mindspore as ms

from gm.config.types import Adapters
from gm.errors import UserError
from gm.models.layers import Conv2d, Linear
from gm.models.text_products import GivenLinear, TextProducts


class Site:
    """A place in a network. `site / "attn1"` is the place of the part with that name."""

    def __init__(self, name: str, dtype: ms.Type, adapters: Adapters, products: Optional[TextProducts] = None):
        """`name`: native, of the network at first. `products`: what is known of the text (text_products.py)."""
        self.name, self.dtype, self.adapters, self.products = name, dtype, adapters, products

    def __truediv__(self, part: Union[str, int]) -> "Site":
        return Site(f"{self.name}.{part}", self.dtype, self.adapters, self.products)

    def __repr__(self) -> str:
        """All that decides the layers built here but for the place itself: what `lazy_inline` tells bodies apart by."""
        inside = {n[len(self.name) :]: a for n, a in self.adapters.items() if n.startswith(self.name + ".")}
        return f"Site({self.dtype}, {inside}, {self.products is not None})"

    def linear(self, part: str, inputs: int, outputs: int, bias: bool = True) -> Union[Linear, GivenLinear]:
        """The linear layer with this name here."""
        name = f"{self.name}.{part}"
        adapter = self.adapters.get(name)
        if self.products is not None and self.products.gives(name):
            self.products.add(name, outputs)
            return GivenLinear(inputs, outputs, self.dtype, adapter)
        return Linear(inputs, outputs, bias, self.dtype, adapter)

    def conv(self, part: str, inputs: int, outputs: int, kernel: int, **more) -> Conv2d:
        """The convolution with this name here; `more` as in Conv2d."""
        return Conv2d(inputs, outputs, kernel, self.dtype, adapter=self.adapters.get(f"{self.name}.{part}"), **more)


def check_adapters(adapters: Adapters, network: str, parameters: Iterable[str]) -> None:
    """UserError for an adapter of this network that none of its layers has taken."""
    names = set(parameters)
    lost = [n for n in adapters if n.startswith(network + ".") and f"{n}.lora_A.weight" not in names]
    if lost:
        raise UserError(f"the model has no layer {lost[0]} for a LoRA ({len(lost)} such in all): give the YAML of its model")
