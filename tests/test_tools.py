"""The tools that make something to try the commands with."""

import numpy as np
import pytest

import tiny
from gm.checkpoint.weights import open_base
from gm.errors import UserError
from gm.models.sdxl import expected_shapes
from tools import make_random_checkpoint


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_random_checkpoint_is_a_model_that_loads(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    arguments = ["--config", str(tiny.INFERENCE), "--output", str(path), "--dtype", dtype]
    make_random_checkpoint.main(arguments)
    file = open_base(path)
    file.check(expected_shapes(tiny.model())[0])
    weight = file.read("model.diffusion_model.input_blocks.4.1.proj_in.weight").astype(np.float32)
    assert 0.3 < weight.std() * 64**0.5 < 0.8
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        make_random_checkpoint.main(arguments)
    assert path.read_bytes() == before
