"""Training UNet and both text encoders from nothing: what such a run has beside the loss, the step and the loop of
fine-tuning. Words, captions left out, captioned micro-batches, and the running average of the weights.
"""

from dataclasses import dataclass
from typing import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from gm.data.dreambooth import INSTANCE, SampleOrder
from gm.diffusion.schedule import train_sigmas
from gm.models.conditioner import TextEncoders, tokenize
from gm.models.layers import LayerNorm
from gm.models.text_encoder import VOCABULARY
from gm.optimizers.gradient import deal, parts
from gm.randomness import CAPTION, generator
from gm.training.batches import MicroBatch
from gm.training.noise import draw_noise
from gm.training.step import Trainer

NO_CAPTION = 0.1  # share of rows whose text is zeros, which guidance starts from (arXiv 2207.12598)
RARE_WORD = 0.15  # share of captions with a token of no meaning before the noun: a new subject's name changes nothing yet
SMALL_NOISE, LARGE_NOISE = 0.3, 5.0  # where the weight of the loss is half of what it were without falling to either side
FIRST_RARE = 5000  # tokens from here on are rarely the whole of a common word


class LearnedWords(nn.Cell):
    """A token table of which only the rows of `words` train: ids (B, n) int32 -> (B, n, width).

    The other tokens keep the random rows they start with. A row is that of the table plus a learned one, so that the
    gradient and the optimizer state have the size of the vocabulary in use.
    """

    def __init__(self, table: Parameter, words: Sequence[int]):
        super().__init__(auto_prefix=False)
        self.embedding_table = table
        self.words = np.asarray(words)
        place = np.zeros(VOCABULARY, np.int32)
        place[self.words] = np.arange(1, len(self.words) + 1)
        self.place = Tensor(place)
        change = np.zeros((len(self.words) + 1, table.shape[1]), np.float32)
        self.change = Parameter(Tensor(change), name="change")

    def construct(self, ids: Tensor) -> Tensor:
        place = ops.gather(self.place, ids, 0)
        learned = (place > 0).astype(ms.float32).reshape(ids.shape + (1,))
        return ops.gather(self.embedding_table, ids, 0) + ops.gather(self.change, place, 0) * learned

    def whole_table(self, change: np.ndarray) -> np.ndarray:
        """The table with the learned rows in it."""
        table = self.embedding_table.asnumpy().copy()
        table[self.words] += change[1:]
        return table


def learn_words(encoders: TextEncoders, words: Sequence[int]) -> list[LearnedWords]:
    """Let both encoders learn these tokens; call before their first use."""
    clip, open_clip = encoders.embedders[0].transformer.text_model.embeddings, encoders.embedders[1].model
    for owner in (clip, open_clip):
        table = owner.token_embedding.embedding_table
        name = table.name
        owner.token_embedding = LearnedWords(table, words)
        table.name, owner.token_embedding.change.name = name, name + ".change"  # the assignment has put a prefix there
    return [clip.token_embedding, open_clip.token_embedding]


def train_all(unet: nn.Cell, encoders: TextEncoders, unused_layers: Sequence[nn.Cell]) -> None:
    """Everything trains but the whole token tables, what SDXL does not use, and the layer norms, whose gain and shift
    the linear layer after each can take on (and to which the norm of the CPU gives no gradient)."""
    for cell in (unet, encoders):
        for parameter in cell.get_parameters():
            parameter.requires_grad = not parameter.name.endswith("token_embedding.embedding_table")
        for part in cell.cells():
            for _, child in part.cells_and_names():
                if isinstance(child, LayerNorm):
                    child.gamma.requires_grad = child.beta.requires_grad = False
    for layer in unused_layers:
        for parameter in layer.get_parameters():
            parameter.requires_grad = False


class OptionalCaption(nn.Cell):
    """TextEncoders; a row of zeros in the place of tokens stands for no caption: its context and pooled text are zeros."""

    def __init__(self, encoders: TextEncoders):
        super().__init__(auto_prefix=False)
        self.encoders = encoders

    def construct(self, tokens_l: Tensor, tokens_g: Tensor):
        context, pooled = self.encoders(tokens_l, tokens_g)
        given = (tokens_l[:, :1] > 0).astype(ms.float32)  # every caption begins with the start of text
        return context * given.reshape((-1, 1, 1)), pooled * given


def loss_weights(sigmas: np.ndarray) -> np.ndarray:
    """Weights (n,) of the squared error of the noise at these noise levels, 1 in the mean.

    (sigma^2 + 1) makes it the error of what EDM's network predicts (arXiv 2206.00364, table 1, for data of deviation 1),
    which has the same size at all levels. Very small noise says little of the picture and very large noise is mostly what
    the caption leaves open: both count less (the former also in arXiv 2303.09556).
    """
    small, large = 1 + (SMALL_NOISE / sigmas) ** 2, 1 + (sigmas / LARGE_NOISE) ** 2
    weights = (sigmas**2 + 1) / (small * large)
    return weights / weights.mean()


class CaptionedBatches:
    """(step, micro, rank) -> MicroBatch, by the step alone: a resumed run draws the same."""

    def __init__(
        self,
        posteriors: np.ndarray,
        caption: Callable[[int, np.random.Generator], tuple[str, str]],
        size: int,
        rows: int,
        seed: int,
        num_timesteps: int,
    ):
        """`posteriors` (N, 2, z, h, w) are mean and logvar; `caption(picture, random)` gives a caption, and its noun."""
        self.posteriors, self.caption, self.size, self.rows, self.seed = posteriors, caption, size, rows, seed
        self.order = SampleOrder.of(len(posteriors), 1, True, seed, INSTANCE)
        self.sigmas = train_sigmas(num_timesteps)
        self.weights = loss_weights(self.sigmas)

    def __call__(self, step: int, micro: int, rank: int) -> MicroBatch:
        positions = range(step * self.rows, (step + 1) * self.rows)
        pictures = [self.order.at(position)[0] for position in positions]
        draws = [_Row(INSTANCE, position) for position in positions]
        taken = np.asarray(self.posteriors[sorted(set(pictures))], np.float32)
        taken = taken[np.searchsorted(sorted(set(pictures)), pictures)]
        index, noise, posterior_noise, _ = draw_noise(draws, self.seed, taken.shape[2:], len(self.sigmas))
        return MicroBatch(
            mean=taken[:, 0],
            logvar=taken[:, 1],
            posterior_noise=posterior_noise,
            noise=noise,
            sigma=self.sigmas[index],
            timestep=index,
            text=self._tokens(pictures, positions),
            sizes=np.tile(np.array([self.size, self.size, 0, 0, self.size, self.size], np.float32), (self.rows, 1)),
            weight=self.weights[index] / self.rows,
            kind=np.full(self.rows, INSTANCE),
        )

    def _tokens(self, pictures: Sequence[int], positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        randoms = [generator(self.seed, CAPTION, position) for position in positions]
        captions = [self.caption(picture, random) for picture, random in zip(pictures, randoms)]
        both = tokenize([text for text, _ in captions])
        nouns = tokenize([noun for _, noun in captions])[0][:, 1]  # a noun is one token
        for row, random in enumerate(randoms):
            chance, rare = random.random(), int(random.integers(FIRST_RARE, VOCABULARY - 2))
            for tokens in both:
                if chance < NO_CAPTION:
                    tokens[row] = 0
                elif chance < NO_CAPTION + RARE_WORD:
                    place = int(np.argmax(tokens[row] == nouns[row]))
                    tokens[row] = np.concatenate((tokens[row][:place], [rare], tokens[row][place:-1]))
        return both


@dataclass(frozen=True)
class _Row:
    """What noise is keyed by."""

    kind: int
    position: int


class AveragingTrainer(Trainer):
    """A Trainer that also keeps the running average of the weights, which draws better than the last of them."""

    decay, every = 0.9985, 8  # of one update; updates between those that are averaged, which takes time

    average: np.ndarray = None  # (n,)

    def _apply(self, lr: float, norm: float) -> None:
        super()._apply(lr, norm)
        if self.average is not None and self.applied % self.every:
            return
        weights = self.optimizer.p.asnumpy()
        if self.average is None:
            self.average = weights.copy()
        decay = min(self.decay, (1 + self.applied) / (10 + self.applied)) ** self.every
        self.average += (1.0 - decay) * (weights - self.average)

    def averaged(self) -> dict[str, np.ndarray]:
        """The average by name."""
        return {parameter.name: part for parameter, part in parts(self.average, self.parameters)}

    def show(self, flat: np.ndarray) -> None:
        """Put these weights (n,) into the networks: the average to sample with, `optimizer.p` to train on."""
        deal(flat, self.parameters)
