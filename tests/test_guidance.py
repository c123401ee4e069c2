"""What a step asks the network for: rows with and without the negative prompt, what SDXL is told beside each, fresh noise."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

import tiny
from gm.config.types import SampleSettings
from gm.encoding.text import TextEmbedding
from gm.sampling.latents import LatentSampler
from modes import in_mode

TEXT, NEGATIVE = (TextEmbedding(np.full((77, 8), n, np.float32), np.full(3, n, np.float32)) for n in (1.0, 2.0))
SETTINGS = replace(SampleSettings.square(48, 8), guidance_scale=5.0)


class Recorder(nn.Cell):
    """In place of a UNet: its answer is of the text alone, and it keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.rows: list[int] = []
        self.vectors: list[np.ndarray] = []

    def construct(self, x, timestep, context, vector):
        self.rows.append(len(x))
        self.vectors.append(vector.asnumpy())
        return x * 0.1 * context[:, :1, :1].reshape(-1, 1, 1, 1)


def sampled(pictures: int = 1, draw=None, **settings) -> tuple[Recorder, np.ndarray]:
    network = Recorder()
    noise = np.random.default_rng(1).standard_normal((pictures, 4, 6, 6)).astype(np.float32)
    with in_mode(ms.PYNATIVE_MODE):
        sampler = LatentSampler(network, tiny.model())
        found = sampler(TEXT, NEGATIVE, replace(SETTINGS, **settings), noise, draw, "sampling")
    return network, found


@pytest.mark.parametrize(
    "settings, rows",
    [
        ({}, [2] * 8),
        ({"guidance_scale": 1.0}, [1] * 8),
        ({"guider": "IdentityGuider"}, [1] * 8),
        ({"guided_steps": (0.25, 0.75)}, [1, 1, 2, 2, 2, 2, 1, 1]),
        ({"guided_steps": (0.0, 0.5), "sampler": "HeunEDMSampler"}, [2] * 8 + [1] * 7),
    ],
)
def test_the_negative_prompt_is_asked_for_where_there_is_guidance(settings, rows):
    assert sampled(**settings)[0].rows == rows
    assert sampled(pictures=2, **settings)[0].rows == [2 * number for number in rows]


def test_a_scale_of_one_is_no_guidance():
    assert np.array_equal(sampled(guidance_scale=1.0)[1], sampled(guider="IdentityGuider")[1])
    nearly = sampled(guidance_scale=1.0 + 1e-6)
    assert nearly[0].rows == [2] * 8 and tiny.relative_error(nearly[1], sampled(guidance_scale=1.0)[1]) < 1e-4


def test_sizes_beside_the_negative_prompt_reach_its_rows():
    plain, other = sampled(pictures=2)[0].vectors[0], sampled(pictures=2, negative_sizes=(9, 9, 3, 3, 9, 9))[0].vectors[0]
    assert np.array_equal(plain[2:], other[2:]) and np.array_equal(other[0], other[1])
    assert np.array_equal(plain[0, 3:], plain[2, 3:]) and not np.array_equal(other[0, 3:], other[2, 3:])
    assert np.array_equal(plain[:, :3], other[:, :3])  # of the text


def test_rescaling_acts():
    plain, rescaled = sampled()[1], sampled(guidance_rescale=0.7)[1]
    assert np.isfinite(rescaled).all() and tiny.relative_error(rescaled, plain) > 0.01


def test_eta_acts():
    draws: list[tuple[float, float]] = []

    def draw(sigma: float, following: float) -> np.ndarray:
        draws.append((sigma, following))
        return np.ones((1, 4, 6, 6), np.float32)

    sampled(sampler="DDIMSampler", draw=draw)
    assert not draws
    half = sampled(sampler="DDIMSampler", eta=0.5, draw=draw)[1]
    assert len(draws) == 8 and all(sigma > following > 0 for sigma, following in draws)
    assert tiny.relative_error(half, sampled(sampler="DDIMSampler", eta=1.0, draw=draw)[1]) > 0.01


@pytest.mark.parametrize("schedule", ["Trailing", "Karras"])
def test_a_latent_as_the_answer(schedule):
    """Weights distilled to one step: what they say is the picture."""
    network = Recorder()
    noise = np.random.default_rng(1).standard_normal((1, 4, 6, 6)).astype(np.float32)
    settings = replace(SETTINGS, steps=1, discretization=schedule, guidance_scale=1.0)
    with in_mode(ms.PYNATIVE_MODE):
        sampler = LatentSampler(network, replace(tiny.model(), prediction="x0"))
        found = sampler(TEXT, NEGATIVE, settings, noise, None, "sampling")
    assert np.allclose(found, 0.1 * noise, rtol=1e-4, atol=1e-6)
