"""SDXL's refiner: its YAML and weights, one to one at full size; its networks and both ways of a second stage against diffusers'
own, at tiny size; and what is refused."""

import gzip
import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor
from safetensors.numpy import load_file, save_file

import tiny
from gm import memory
from gm.checkpoint.blocks import network_of
from gm.checkpoint.lora_files import open_lora
from gm.checkpoint.lora_rules import lora_names
from gm.checkpoint.rules import official_shapes
from gm.checkpoint.weights import open_base
from gm.config.load import load_config
from gm.encoding.text import TextEmbedder
from gm.errors import UserError
from gm.models import sdxl
from gm.models.conditioner import SizeEmbedding
from modes import in_mode
from refiner import FULL, PROMPT, embedded

pytestmark = pytest.mark.xdist_group("refiner")


# -- names and shapes ----------------------------------------------------------------------------------------------------


def test_full_size_names_and_shapes_are_the_official_1858(full_keys):
    """The list: of the UNet what sgm's UNetModel has with the sizes of Stability's YAML (which gives the base's list with those of
    the base); of text encoder and first stage those of the base's second encoder and first stage."""
    official = json.loads(gzip.decompress((tiny.ROOT / "tests/sd_xl_refiner_1.0.keys.json.gz").read_bytes()))
    model = load_config(str(FULL), training=False).model
    found = official_shapes(sdxl.expected_shapes(model)[0])
    assert len(official) == 1858 and found == {name: tuple(shape) for name, shape in official.items()}
    base = {
        name.replace("embedders.1.", "embedders.0.") for name in full_keys if not name.startswith("conditioner.embedders.0")
    }
    assert {name for name in base if not name.startswith("model.")} == {
        name for name in found if not name.startswith("model.")
    }
    unet = {name: shape for name, shape in found.items() if name.startswith("model.diffusion_model.")}
    assert sum(int(np.prod(shape)) for shape in unet.values()) == 2_259_526_660
    assert {network_of(name) for name in found} == {"UNet", "VAE", "text encoder 2"}


def test_the_yaml_of_the_earlier_example_is_read(tmp_path):
    """With a number or a list for the depth and the width of the text."""
    model = load_config(str(FULL), training=False).model
    network = "model.params.network_config.params"
    for words in (f"{network}.context_dim=[1280,1280,1280,1280]", f"{network}.transformer_depth=[4,4,4,4]"):
        assert load_config(str(FULL), [words], training=False).model == model
    assert (model.size_count, model.context_dim, model.pooled_dim, model.unet.downsampling) == (5, 1280, 1280, 64)
    without = tmp_path / "plain.yaml"
    without.write_text(FULL.read_text().replace("version: SDXL-refiner-1.0\n", ""))
    assert load_config(str(without), training=False).version == "SDXL-refiner-1.0"


NETWORK, EMBEDDERS = "model.params.network_config.params", "model.params.conditioner_config.params.emb_models"


@pytest.mark.parametrize(
    "words, training, said",
    [
        ("version=SDXL-base-1.0", False, "has the version SDXL-base-1.0, but the emb_models of SDXL-refiner-1.0"),
        ("", True, "of SDXL-refiner-1.0, which this suite samples from and does not train: give a YAML of the base"),
        (f"{NETWORK}.context_dim=[1280,640]", False, "every block sees the same text"),
        (f"{NETWORK}.context_dim=[]", False, "must be a whole number or a list of whole numbers"),
        (f"{NETWORK}.transformer_depth=[4,4]", False, "give one for each level"),
        (f"{NETWORK}.adm_in_channels=2816", False, "pooled text and sizes have 2560 channels"),
        (f"{EMBEDDERS}.3.input_key=target_size_as_tuple", False, "of the refiner the second encoder, then those for"),
        (f"{EMBEDDERS}.1.input_key=crop_coords_top_left", False, "of the refiner the second encoder, then those for"),
    ],
)
def test_a_yaml_that_cannot_be(words, training, said):
    with pytest.raises(UserError, match=said) as error:
        load_config(str(FULL), [words] if words else [], training=training)
    assert "\n" not in str(error.value)


def test_loading_is_strict(refiner, refiner_weights, tiny_weights, base_shapes):
    shapes, _ = sdxl.expected_shapes(refiner)
    open_base(refiner_weights).check(shapes)
    with pytest.raises(
        UserError, match=r"--pipeline_weight .* does not fit the model of --pipeline_config: tensors \d+ missing"
    ):
        open_base(tiny_weights).check(shapes, "--pipeline_weight", "--pipeline_config")
    with pytest.raises(UserError, match="does not fit the model of --config"):
        open_base(refiner_weights).check(base_shapes)


def test_diffusers_folder_of_the_refiner_is_the_same_model(refiner, refiner_weights, refiner_modules, tmp_path, base_shapes):
    for name, module in refiner_modules.items():
        module.save_pretrained(tmp_path / name)
    assert set(refiner_modules) == {"unet", "vae", "text_encoder_2"}
    found, given = open_base(tmp_path), open_base(refiner_weights)
    found.check(sdxl.expected_shapes(refiner)[0])
    assert found.digest(("model.", "first_stage", "conditioner.")) == given.digest(("model.", "first_stage", "conditioner."))
    text = load_file(tmp_path / "text_encoder_2" / "model.safetensors")
    name = next(name for name in text if name.endswith("token_embedding.weight"))
    save_file(text | {name: np.zeros((49408, 16), np.float32)}, tmp_path / "text_encoder_2" / "model.safetensors")
    with pytest.raises(UserError, match="is a folder without text_encoder/"):  # a base that is not whole
        open_base(tmp_path)


def test_lora_of_the_base_and_of_the_refiner_are_told_apart(refiner, refiner_weights, tmp_path):
    names, shapes = lora_names(refiner), sdxl.expected_shapes(refiner)[0]

    def saved(name: str, modules, layout: str, names) -> Path:
        """With matrices that fit the tiny refiner, as far as it has the module."""
        arrays = {}
        for module in modules:
            outputs, inputs = shapes.get(f"{module}.weight", (32, 32))
            foreign = names.foreign(module, layout)
            arrays[f"{foreign}.lora_down.weight"] = np.ones((2, inputs), np.float32)
            arrays[f"{foreign}.lora_up.weight"] = np.ones((outputs, 2), np.float32)
        save_file(arrays, tmp_path / name)
        return tmp_path / name

    for layout in ("kohya", "kohya-diffusers"):
        file = open_lora(saved(f"{layout}.safetensors", names.modules, layout, names), refiner)
        file.check_against_base(shapes)
        assert len(file.modules) == len(names.modules)
    assert any(module.startswith("conditioner.embedders.0.model.transformer") for module in names.modules)
    deep = [
        module for module in lora_names().modules if ".transformer_blocks.9." in module
    ]  # of SDXL's base, the refiner has 4
    with pytest.raises(UserError, match="belong to no linear layer of this model's transformers"):
        open_lora(saved("base.safetensors", deep, "kohya", lora_names()), refiner)
    wide = saved("wide.safetensors", names.modules[:1], "kohya", names)
    with pytest.raises(UserError, match="was made for another model"):
        open_lora(wide, refiner).check_against_base({})


def test_what_a_call_takes_of_memory(refiner):
    """By hand: of the levels that are left open on the way up, and the largest of one block's: the middle's attention comes where
    its level has none."""
    unet = load_config(str(FULL), training=False).model.unet
    points = [128 * 128, 64 * 64, 32 * 32, 16 * 16]
    widths = [384, 768, 1536, 1536]
    kept = sum(3 * count * width * 2 for count, width in zip(points, widths))
    assert memory.unet_call(unet, 1024, 1024, 1, 2) == kept + 12 * points[1] ** 2 * memory.SCORES
    depths = [level.depth for level in memory.levels(unet, 1024, 1024)]
    assert depths == [0, 4, 4, 0]


# -- networks ------------------------------------------------------------------------------------------------------------


def test_networks_are_diffusers(refiner, refiner_weights, refiner_modules):
    """One call of the UNet and of the text encoder on the same numbers."""
    read = open_base(refiner_weights).read
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 4, 16, 16), np.float32)
    context = random.standard_normal((2, 77, 32), np.float32)
    pooled = random.standard_normal((2, 32), np.float32)
    sizes, times = np.float32([[512, 768, 3, 5, 6.0], [64, 64, 0, 0, 2.5]]), np.float32([981, 11])
    with in_mode(ms.PYNATIVE_MODE):
        unet, encoders = sdxl.build_unet(refiner), sdxl.build_text_encoders(refiner)
        sdxl.fill([unet, encoders], read)
        vector = SizeEmbedding(refiner)(Tensor(pooled), Tensor(sizes))
        assert vector.shape == (2, 1312)
        found = unet(Tensor(x), Tensor(times), Tensor(context), vector).asnumpy()
        text = TextEmbedder(encoders)([PROMPT])[PROMPT]
    with torch.no_grad():
        added = {"text_embeds": torch.from_numpy(pooled), "time_ids": torch.from_numpy(sizes)}
        wanted = refiner_modules["unet"](
            torch.from_numpy(x), torch.from_numpy(times), torch.from_numpy(context), added_cond_kwargs=added
        ).sample.numpy()
    assert tiny.relative_error(found, wanted) < 1e-5
    for ours, theirs in zip(text, embedded(refiner_modules, refiner, PROMPT)):
        assert ours.shape == theirs.shape and tiny.relative_error(ours, theirs) < 1e-5
