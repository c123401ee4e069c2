"""LoRA that come and go on a loaded pipeline, as the page puts them on and takes them off."""

import os
from pathlib import Path

import numpy as np
import pytest

import tiny
from gm import runtime
from gm.checkpoint.lora_strength import Strengths
from gm.checkpoint.weights import open_base
from gm.errors import UserError
from lora_samples import ATTENTION, make_lora

pytestmark = pytest.mark.xdist_group("page")


def test_lora_that_come_and_go(tiny_weights, tmp_path):
    """After any change the loaded weights are those that a fresh start would have."""
    from gm.encoding.source import Source
    from gm.sampling.pipeline import Pipeline

    machine = runtime.start(runtime.CPU, 0)
    lora, second = str(tmp_path / "big_lora.ckpt"), str(tmp_path / "second.ckpt")
    make_lora(Path(lora), open_base(tiny_weights), lambda module: 4 * module.endswith(ATTENTION))
    make_lora(Path(second), open_base(tiny_weights), lambda module: 2 * ("attn2.to_k" in module or ".ff." in module), seed=3)

    def loaded(weight, scales=()) -> Pipeline:
        pipeline = Pipeline(Source(tiny.model(), str(weight), machine, Strengths(scales)))
        pipeline.load(keep_text_encoders=True)
        return pipeline

    def weights(pipeline) -> dict[str, np.ndarray]:
        cells = (pipeline.embedder.call.cell, pipeline.pictures.sampler.denoiser.cell)
        return {parameter.name: parameter.asnumpy() for cell in cells for parameter in cell.get_parameters()}

    def same(pipeline, expected) -> bool:
        found = weights(pipeline)
        return set(found) == set(expected) and all(np.array_equal(found[name], expected[name]) for name in found)

    plain, big = weights(loaded(tiny_weights)), weights(loaded(f"{tiny_weights},{lora}", (0.5,)))
    both = weights(loaded(f"{tiny_weights},{lora},{second}", (0.5, 0.5)))
    changed = {name for name in plain if not np.array_equal(plain[name], big[name])}
    assert len(changed) == 136 + 2 * 4 * 4  # the UNet's attention and both text encoders'

    pipeline = loaded(tiny_weights)
    for paths, expected in (([lora], big), ([second], None), ([lora], big), ([lora, second], both), ([], plain)):
        pipeline.texts = {"a dog": None}
        pipeline.change_lora(paths, 0.5)
        assert not pipeline.texts  # embedded with the weights before
        assert expected is None or same(pipeline, expected)

    # what does not fit changes nothing
    pipeline.change_lora([lora], 0.5)
    with pytest.raises(UserError):
        pipeline.change_lora([str(tiny_weights)], 0.5)
    assert same(pipeline, big)

    # interrupted on the way, it is made good by the next change
    read, calls = pipeline.read, []

    def interrupted(name):
        calls.append(name)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return read(name)

    pipeline.read = interrupted
    with pytest.raises(KeyboardInterrupt):
        pipeline.change_lora([second], 0.5)
    pipeline.read = read
    assert not same(pipeline, big)
    pipeline.change_lora([lora], 0.5)
    assert same(pipeline, big)

    # the same again reads nothing; a file that was written anew is read again
    pipeline.read = None
    pipeline.change_lora([lora], 0.5)
    pipeline.read = read
    os.utime(lora, ns=(1, 1))
    pipeline.texts = {"a dog": None}
    pipeline.change_lora([lora], 0.5)
    assert not pipeline.texts and same(pipeline, big)
