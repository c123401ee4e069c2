"""A small network that looks at pictures of the drawn world: who is in them, and where. In place of DINO and CLIP.

image (B, 3, 64, 64) float32 in [-1, 1]   embedding (B, 64), of length 1   maps: three feature maps (B, c, h, w)

It was trained by tools/train_judge.py on individuals none of which is the subject, to have the cosine of two embeddings
equal the share of traits (kind, breed, coat, marking, accessory) that the two individuals have in common: 1 for the same
individual wherever it is and however it stands.
"""

import json
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
from mindspore import Tensor, nn, ops
from PIL import Image

from gm.checkpoint.io import TensorFile, open_tensors
from gm.data.pixels import to_network
from gm.encoding.compiling import Compiling
from gm.errors import UserError
from gm.options.evaluate import JUDGE

SIZE, BATCH, WIDTH = 64, 32, 64
MOST_PLACES = 1000  # that a file may name
STAGES = ((24, 1), (48, 2), (64, 2), (128, 2))  # channels and convolutions; each stage halves the picture

_normalise, _flatten = ops.L2Normalize(axis=1, epsilon=1e-12), ops.Flatten()


class JudgeNetwork(nn.Cell):
    """Convolutions, then one linear layer for the embedding and one for the places, on all points of the last map: who is
    in the picture is in its middle, and a hat is above a head."""

    def __init__(self, places: int):
        super().__init__()
        stages, inputs = [], 3
        for channels, convolutions in STAGES:
            layers = []
            for i in range(convolutions):
                layers += [
                    nn.Conv2d(inputs, channels, 3, stride=1 if i else 2, pad_mode="pad", padding=1, weight_init="HeNormal"),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                ]
                inputs = channels
            stages.append(nn.SequentialCell(layers))
        self.stages = nn.CellList(stages)
        numbers = inputs * (SIZE >> len(STAGES)) ** 2
        self.identity = nn.Dense(numbers, WIDTH)
        self.place = nn.Dense(numbers, places)

    def construct(self, image: Tensor):
        """embedding (B, 64), logits of the places (B, places), and the maps of the last three stages."""
        maps, x = (), image
        for stage in self.stages:
            x = stage(x)
            maps += (x,)
        x = _flatten(x)
        return _normalise(self.identity(x)), self.place(x), maps[1], maps[2], maps[3]


class Judge:
    """`Features` (features.py) from a trained JudgeNetwork.

    image: the embedding. prompt: the probability of the place that the prompt names. distance: that of LPIPS
    (arXiv 1801.03924) on the network's own maps, every channel with weight 1: at each point of a map the squared distance
    of the two feature vectors scaled to length 1; the mean over the points, then over the three maps.
    """

    threshold = 0.5  # at or above it no other place is likelier

    def __init__(self, network: JudgeNetwork, places: Sequence[str]):
        self.places = tuple(places)
        network.set_train(False)
        self.call = Compiling(network, "compiling the judge")

    @classmethod
    def load(cls, path: Path) -> "Judge":
        """From what tools/train_judge.py wrote. UserError when the file is another."""
        with open_tensors(path) as file:
            places = _places(file)
            network = JudgeNetwork(len(places))
            parameters = dict(network.parameters_and_names())
            shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
            if shapes != {name: file.shape(name) for name in file.names}:
                raise UserError(f"{path} does not fit the judge's network: write it again with tools/train_judge.py")
            for name, parameter in parameters.items():
                parameter.set_data(Tensor(file.read(name).astype(np.float32)))
        return cls(network, places)

    def image(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return self._look(pictures)[0]

    def place_probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(n, places)."""
        logits = self._look(pictures)[1].astype(np.float64)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    def prompt(self, pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        asked = [self.place_of(prompt) for prompt in prompts]
        return self.place_probabilities(pictures)[np.arange(len(asked)), asked]

    def distance(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        layers = []
        for maps in self._look(pictures)[2:]:
            points = maps.shape[2] * maps.shape[3]
            unit = maps / np.sqrt((maps**2).sum(1, keepdims=True) + 1e-10)
            rows = unit.reshape(len(unit), -1).astype(np.float64)
            squares = (rows**2).sum(1)  # of a point without any activity the vector is 0, not of length 1
            layers.append(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0.0) / points)
        return np.mean(layers, 0)

    def place_of(self, prompt: str) -> int:
        """The position of the one place whose phrase is in the prompt; UserError when it is none or several."""
        found = [i for i, place in enumerate(self.places) if place in prompt.lower()]
        if len(found) != 1:
            raise UserError(
                f"the judge needs one of its places in a prompt, but {prompt!r} has {len(found)}: "
                f"name one of {', '.join(self.places)}, or give other --features"
            )
        return found[0]

    def _look(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the network makes of all pictures."""
        results = []
        for start in range(0, len(pictures), BATCH):
            batch = to_input(pictures[start : start + BATCH])
            filled = np.concatenate((batch, np.repeat(batch[-1:], BATCH - len(batch), 0)))  # one shape, one graph
            results.append([output[: len(batch)] for output in self.call(filled)])
        return [np.concatenate(outputs) for outputs in zip(*results)]


def features() -> Judge:
    """The judge that comes with the project, for --features."""
    return Judge.load(JUDGE)


def to_input(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """(h, w, 3) uint8 each -> (n, 3, 64, 64) float32 in [-1, 1]; a picture that is not square is squeezed."""
    images = [Image.fromarray(picture) for picture in pictures]
    images = [i if i.size == (SIZE, SIZE) else i.resize((SIZE, SIZE), Image.Resampling.LANCZOS) for i in images]
    return to_network(np.stack([np.asarray(image) for image in images]))


def state(network: JudgeNetwork) -> Mapping[str, np.ndarray]:
    """All numbers of the network by name, moving means and variances included."""
    return {name: parameter.asnumpy() for name, parameter in network.parameters_and_names()}


def _places(file: TensorFile) -> list[str]:
    try:
        places = json.loads(file.metadata["places"])
    except (KeyError, ValueError, RecursionError):
        places = None
    if not isinstance(places, list) or not 1 <= len(places) <= MOST_PLACES or not all(isinstance(one, str) for one in places):
        raise UserError(f"{file.path} is not the judge: give the file that tools/train_judge.py wrote")
    return places
