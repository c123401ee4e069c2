"""What the judge (judge.py) is trained on, its training, and how well it sees pictures that it was not trained on.

Rare traits are made as frequent as others, but neither the subject nor anybody with two of its rare traits is drawn.
Pictures are warped, blurred, shrunk, recoloured and made noisy, as those of a small diffusion model are.
"""

from typing import Mapping, NamedTuple, Optional, Sequence

import numpy as np
from PIL import Image, ImageFilter

from gm.console import bar, log
from gm.errors import UserError
from gm.randomness import JUDGE, generator
from tools.toy.drawing import draw
from tools.toy.scenes import (
    ACCESSORIES,
    ANIMALS,
    BREEDS,
    COATS,
    KINDS,
    MARKINGS,
    PLACES,
    SUBJECT,
    THINGS,
    Look,
    even_look,
    labels,
    may_be_drawn,
    places_of,
    random_scene,
)
from tools.toy.subject import subject_pictures

HEADS = {"kind": KINDS, "breed": BREEDS, "coat": COATS, "marking": MARKINGS, "accessory": ACCESSORIES}
TRAITS = tuple(HEADS)
PIXELS = 64  # what is drawn has, as the small model's pictures
POOL, GROUPS = 2500, 12  # groups that are drawn, and of a batch: two individuals that differ in one trait, two pictures each
CHECKED = 20  # batches of other groups that the report is about
SAME = 10.0  # weight of two pictures of the same individual, which are few, beside other pairs
IDENTITY = 10.0  # weight of the embedding's loss beside the mean cross entropy of the heads
TRAINED, HELD_OUT = 0, 1  # third number of a key


class Batch(NamedTuple):
    image: np.ndarray  # (B, 3, 64, 64)
    traits: np.ndarray  # (B, sum of HEADS) one-hot for each head, zeros where it does not apply
    place: np.ndarray  # (B, PLACES) one-hot
    similarity: np.ndarray  # (B, B) share of traits in common
    weight: np.ndarray  # (B, B) of each pair in the loss, 1 together


# -- what is drawn ---------------------------------------------------------------------------------------------------


def relative_of(look: Look, random: np.random.Generator) -> Look:
    """Somebody with one other trait; another thing for a thing."""
    if look.kind in THINGS:
        return Look(str(random.choice([kind for kind in THINGS if kind != look.kind])))
    while True:
        trait = str(random.choice([t for t in TRAITS[1:] if getattr(look, t)]))
        other = Look(**{**vars(look), trait: str(random.choice(HEADS[trait]))})
        if other != look and may_be_drawn(other):
            return other


def shared_traits(first: Look, second: Look) -> float:
    """The share of traits in common; a thing has all in common with its like and none with others."""
    if first.kind not in ANIMALS or second.kind not in ANIMALS:
        return float(first == second)
    return float(np.mean([getattr(first, trait) == getattr(second, trait) for trait in TRAITS]))


class Drawn(NamedTuple):
    """Two pictures each of an individual and of a relative of it, as large as the network looks at them."""

    looks: list[Look]
    images: list[Image.Image]
    labels: list[dict[str, int]]


def draw_group(random: np.random.Generator) -> Drawn:
    """A random individual in random places."""
    from tools.toy.judge import SIZE

    look = even_look(random)
    looks = [look] * 2 + [relative_of(look, random)] * 2
    scenes = [random_scene(random, look, str(random.choice(places_of(look.kind)))) for look in looks]
    images = [draw(scene, PIXELS).resize((SIZE, SIZE), Image.Resampling.LANCZOS) for scene in scenes]
    return Drawn(looks, images, [labels(scene) for scene in scenes])


def batch_of(groups: Sequence[Drawn], random: Optional[np.random.Generator] = None) -> Batch:
    """The pictures of the groups as the network takes them, disturbed if `random` is given."""
    from tools.toy import judge

    looks, found = [look for group in groups for look in group.looks], [f for group in groups for f in group.labels]
    images = [image for group in groups for image in group.images]
    pictures = [disturb(image, random) if random else np.asarray(image) for image in images]
    traits = np.concatenate([_one_hot([f[head] for f in found], len(values)) for head, values in HEADS.items()], 1)
    place = _one_hot([f["place"] for f in found], len(PLACES))
    similarity = np.array([[shared_traits(a, b) for b in looks] for a in looks], np.float32)
    weight = np.where((similarity == 1) & ~np.eye(len(looks), dtype=bool), SAME, 1.0).astype(np.float32)
    return Batch(judge.to_input(pictures), traits, place, similarity, weight / weight.sum())


def _one_hot(positions: Sequence[int], number: int) -> np.ndarray:
    """A row of zeros where the position is -1."""
    return (np.asarray(positions)[:, None] == np.arange(number)).astype(np.float32)


def disturb(image: Image.Image, random: np.random.Generator) -> np.ndarray:
    """The picture (h, w, 3) uint8 mirrored, warped, shrunk, blurred, in other colours and with noise, by chance each."""
    side = image.width
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    grid = np.linspace(0, side, 4)
    corners = np.stack(np.meshgrid(grid, grid, indexing="xy"), -1) + random.uniform(-2, 2, 2)
    corners += random.uniform(-1.7, 1.7, corners.shape)
    cells = []
    for y in range(3):
        for x in range(3):
            target = tuple(int(edge) for edge in (grid[x], grid[y], grid[x + 1], grid[y + 1]))
            around = corners[y, x], corners[y + 1, x], corners[y + 1, x + 1], corners[y, x + 1]
            cells.append((target, tuple(float(v) for corner in around for v in np.clip(corner, 0, side - 1))))
    image = image.transform(image.size, Image.Transform.MESH, cells, Image.Resampling.BILINEAR)
    if random.random() < 0.5:
        small = int(side * random.uniform(0.5, 0.95))
        image = image.resize((small, small), Image.Resampling.BILINEAR).resize((side, side), Image.Resampling.BICUBIC)
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.2, 0.9)))
    pixels = np.asarray(image, np.float32)
    pixels = (pixels - 127.5) * random.uniform(0.8, 1.1) + 127.5 + random.uniform(-12, 12, 3)
    pixels = pixels + random.normal(0, random.uniform(0, 10), pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


# -- training --------------------------------------------------------------------------------------------------------


def train(steps: int, learning_rate: float, seed: int):
    """A JudgeNetwork after `steps` batches. UserError when its loss is no number any more: nothing would come of it."""
    import mindspore as ms
    from mindspore import nn, ops

    from tools.toy.judge import WIDTH, JudgeNetwork

    widths = [len(values) for values in HEADS.values()]

    class Loss(nn.Cell):
        """Cross entropy of the place and of each trait (read off the embedding), and squared error of the cosines."""

        def __init__(self, network: JudgeNetwork):
            super().__init__()
            self.network = network
            self.heads = nn.CellList([nn.Dense(WIDTH, width) for width in widths])
            self.split = ops.Split(1, 1)
            self.log_softmax = nn.LogSoftmax(axis=-1)
            self.products = ops.MatMul(transpose_b=True)

        def construct(self, image, traits, place, similarity, weight):
            embedding, logits = self.network(image)[:2]
            loss = -(self.log_softmax(logits) * place).sum() / place.sum()
            start = 0
            for i in range(len(widths)):
                wanted = traits[:, start : start + widths[i]]
                logits = self.heads[i](embedding * 8.0)
                loss = loss - (self.log_softmax(logits) * wanted).sum() / (wanted.sum() + 1e-6)
                start += widths[i]
            error = self.products(embedding, embedding) - similarity
            return loss / (len(widths) + 1) + IDENTITY * (weight * error * error).sum()

    network = JudgeNetwork(len(PLACES))
    loss = Loss(network)
    step = nn.TrainOneStepCell(loss, nn.Adam(loss.trainable_params(), rates(learning_rate, steps)))
    step.set_train()
    drawn = bar(range(POOL), "drawing", unit="group", leave=False)
    pool = [draw_group(generator(seed, JUDGE, TRAINED, number)) for number in drawn]
    with bar(range(steps), "training the judge", unit="step") as progress:
        for number in progress:
            random = generator(seed, JUDGE, TRAINED, POOL + number)
            batch = batch_of([pool[i] for i in random.choice(POOL, GROUPS, replace=False)], random)
            value = float(step(*(ms.Tensor(array) for array in batch)).asnumpy())
            if not np.isfinite(value):
                raise UserError(
                    f"the loss is {value} at step {number + 1}: give a smaller --learning_rate than {learning_rate:g}"
                )
            progress.set_postfix_str(f"loss {value:.3f}", refresh=False)
            if (number + 1) % 250 == 0:
                log.info("step %d of %d: loss %.4f", number + 1, steps, value)
    return network


def rates(highest: float, steps: int) -> list[float]:
    """The learning rate of each step: up to `highest` in the first tenth, then down to 0 as a cosine."""
    done = (np.arange(steps) + 0.5) / steps
    return [float(rate) for rate in highest * np.where(done < 0.1, done / 0.1, 0.5 + 0.5 * np.cos(np.pi * (done - 0.1) / 0.9))]


# -- what it sees ----------------------------------------------------------------------------------------------------


def held_out_report(judge, seed: int) -> list[tuple[str, str, str]]:
    """Accuracies and similarities on pictures it was not trained on."""
    rows = []
    for name, disturbed in (("as drawn", False), ("disturbed", True)):
        found = []
        for i in range(CHECKED):
            random = generator(seed, JUDGE, HELD_OUT, i)
            groups = [draw_group(random) for _ in range(GROUPS)]
            found.append(batch_of(groups, random if disturbed else None))
        for measure, value in accuracies(judge, found).items():
            rows.append((measure, name, f"{value:.3f}"))
    return rows + [(name, "cosine", f"{value:.3f}") for name, value in subject_similarities(judge, seed).items()]


def accuracies(judge, batches: Sequence[Batch]) -> dict[str, float]:
    """Of the place, of each trait read off the nearest embedding of another batch's picture, of finding the one other
    picture of the same individual in its batch among all, and the correlation of cosines with traits in common."""
    outputs = [judge.call(batch.image)[:2] for batch in batches]
    embeddings = [output[0] for output in outputs]
    places = np.concatenate([output[1].argmax(1) for output in outputs])
    result = {"place": float((places == np.concatenate([batch.place.argmax(1) for batch in batches])).mean())}
    known, traits = np.concatenate(embeddings), np.concatenate([batch.traits for batch in batches])
    owner = np.repeat(np.arange(len(batches)), [len(e) for e in embeddings])
    nearest = np.where(owner[:, None] == owner, -2.0, known @ known.T).argmax(1)
    start = 0
    for head, values in HEADS.items():
        mine = traits[:, start : start + len(values)]
        there = mine.sum(1) > 0
        result[head] = float((mine[nearest].argmax(1) == mine.argmax(1))[there].mean())
        start += len(values)
    cosines = [e @ e.T - 2 * np.eye(len(e)) for e in embeddings]
    same = [batch.similarity[np.arange(len(c)), c.argmax(1)] == 1 for c, batch in zip(cosines, batches)]
    result["same individual found"] = float(np.concatenate(same).mean())
    pairs = [np.triu_indices(len(c), 1) for c in cosines]
    given = np.concatenate([c[p] for c, p in zip(cosines, pairs)])
    result["correlation with traits"] = float(
        np.corrcoef(given, np.concatenate([b.similarity[p] for b, p in zip(batches, pairs)]))[0, 1]
    )
    return result


def subject_similarities(judge, seed: int) -> Mapping[str, float]:
    """Mean cosine of the subject's held-out pictures with its training pictures and with dogs that share less with it."""
    from gm.evaluation.fidelity import similarity

    random = generator(seed, JUDGE, HELD_OUT, 0, 1)
    mine = judge.image([np.asarray(p) for p in subject_pictures(10, PIXELS, seed, True)])
    others = {"the subject": [np.asarray(p) for p in subject_pictures(5, PIXELS, seed, False)]}
    plain = {"coat": "brown", "marking": "plain", "accessory": "nothing"}
    for trait in plain:
        changed = Look(**{**vars(SUBJECT), trait: plain[trait]})
        others[f"the same with {trait} {plain[trait]}"] = [_picture(random, changed) for _ in range(20)]
        one = Look("dog", SUBJECT.breed, **{**plain, trait: getattr(SUBJECT, trait)})
        others[f"a {SUBJECT.breed} with its {trait} alone"] = [_picture(random, one) for _ in range(20)]
    others["dogs with none of its rare traits"] = [
        _picture(random, Look("dog", str(random.choice(BREEDS)), str(random.choice(COATS[:5])), "plain", "nothing"))
        for _ in range(100)
    ]
    return {f"subject, {name}": similarity(mine, judge.image(pictures)) for name, pictures in others.items()}


def _picture(random: np.random.Generator, look: Look) -> np.ndarray:
    return np.asarray(draw(random_scene(random, look), PIXELS))
