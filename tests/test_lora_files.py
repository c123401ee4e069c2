"""LoRA files: the names of every layout in both directions, what is read from each, and what is refused."""

import json
import re

import numpy as np
import pytest

import tiny
from gm.checkpoint.io import write_tensors
from gm.checkpoint.lora_files import open_lora, save_lora
from gm.checkpoint.lora_rules import LAYOUTS, UNET, LoraNames, lora_names, matrix_names, spatial_transformers
from gm.checkpoint.lora_stack import LoraStack, merged
from gm.checkpoint.peft_settings import ADAPTER_METADATA
from gm.checkpoint.weights import open_base
from gm.config.types import UNetConfig
from gm.errors import UserError
from gm.models.sdxl import expected_shapes
from lora_samples import MLP, MODULES, OUT, TE1, TE2, Q, file_of, matrices, same

# -- names ---------------------------------------------------------------------------------------------------------


def test_the_modules_are_all_linear_layers_of_the_full_size_transformers(full_keys):
    found = set()
    for name, shape in full_keys.items():
        if name.endswith("attn.in_proj_weight"):
            found |= {name.replace("in_proj_weight", f"{part}_proj") for part in "qkv"}
        elif name.endswith(".weight") and len(shape) == 2 and "embedding" not in name:
            if re.search(r"(put_blocks\.\d+|middle_block)\.1\.", name) or name.startswith("conditioner."):
                found.add(name.removesuffix(".weight"))
    modules = lora_names().modules
    assert len(modules) == len(set(modules)) == 722 + 12 * 6 + 32 * 6 and set(modules) == found
    assert len([name for name in modules if name.startswith(UNET) and ".attn" in name]) == 560


@pytest.mark.parametrize("layout", LAYOUTS)
def test_full_size_names_are_one_to_one_in_both_directions(layout):
    names = lora_names()
    foreign = {module: names.foreign(module, layout) for module in names.modules}
    tensors = {matrix for module, name in foreign.items() for matrix in matrix_names(layout, module, name)}
    assert len(tensors) == 2 * len(names.modules)
    assert len([name for name in tensors if "attn" in name and name.startswith(("lora_unet_", "unet."))]) == 1120
    assert {names.native_of[names.foreign(module, layout)] for module in names.modules} == set(names.modules)
    for module in names.modules:
        assert names.native_of[names.foreign(module, layout)] == module


EXPECTED = {
    "kohya": ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight",
              "lora_te1_text_model_encoder_layers_2_self_attn_v_proj.lora_up.weight",
              "lora_te2_text_model_encoder_layers_0_mlp_fc2.lora_down.weight"),
    "kohya-diffusers": ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",
                        "lora_te1_text_model_encoder_layers_2_self_attn_v_proj.lora_up.weight",
                        "lora_te2_text_model_encoder_layers_0_mlp_fc2.lora_down.weight"),
    "peft": ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
             "text_encoder.text_model.encoder.layers.2.self_attn.v_proj.lora_B.weight",
             "text_encoder_2.text_model.encoder.layers.0.mlp.fc2.lora_A.weight"),
    "diffusers": ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight",
                  "text_encoder.text_model.encoder.layers.2.self_attn.v_proj.lora_linear_layer.up.weight",
                  "text_encoder_2.text_model.encoder.layers.0.mlp.fc2.lora_linear_layer.down.weight"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_are_those_of_the_tools(layout):
    names = lora_names()
    found = [matrix_names(layout, module, names.foreign(module, layout)) for module in (Q, TE1, MLP)]
    assert (found[0][0], found[1][1], found[2][0]) == EXPECTED[layout]
    assert names.foreign(OUT, "peft") == "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_out.0"


def test_blocks_are_numbered_for_any_size_of_unet():
    """Two levels of three blocks: sgm's UNet has input blocks 0, 1-3, 4 (down), 5-7 and output blocks 0-3, 4-7."""
    unet = UNetConfig(num_res_blocks=3, channel_mult=(1, 2), attention_resolutions=(1, 2), transformer_depth=(1, 2))
    found = {native: (diffusers, depth) for native, diffusers, depth in spatial_transformers(unet)}
    assert found == {
        **{f"input_blocks.{i + 1}.1": (f"down_blocks.0.attentions.{i}", 1) for i in range(3)},
        **{f"input_blocks.{i + 5}.1": (f"down_blocks.1.attentions.{i}", 2) for i in range(3)},
        "middle_block.1": ("mid_block.attentions.0", 2),
        **{f"output_blocks.{i}.1": (f"up_blocks.0.attentions.{i}", 2) for i in range(4)},
        **{f"output_blocks.{i + 4}.1": (f"up_blocks.1.attentions.{i}", 1) for i in range(4)},
    }
    names = LoraNames(unet, (1, 2))
    assert len(set(names.modules)) == 7 * (2 + 10) + 8 * (2 + 20) + 3 * 6


# -- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("layout", ["native", *LAYOUTS])
def test_every_layout_is_read_into_native_modules(base_shapes, tmp_path, layout, suffix):
    pairs = matrices(base_shapes)
    alphas = {module: 1.0 + i for i, module in enumerate(pairs)}
    with_alpha = open_lora(file_of(tmp_path / f"a{suffix}", pairs, layout, alphas, {"note": "kept"}))
    assert with_alpha.layout == layout and with_alpha.metadata == {"note": "kept"}
    same(with_alpha, pairs)
    assert {module: with_alpha.alpha(module) for module in pairs} == alphas
    with_alpha.check_against_base(base_shapes)
    without = open_lora(file_of(tmp_path / f"b{suffix}", pairs, layout), tiny.model())
    same(without, pairs)
    assert all(without.scale(module) == 1.0 for module in pairs)
    if layout == "native":  # a file that does not say its alpha has that of the YAML
        assert without.alpha(Q, 9.0) == 9.0 and without.modules[Q].alpha is None


SPELLINGS = {
    f"{Q}.lora_A.weight": "model.diffusion_model._backbone.input_blocks.4.1.transformer_blocks.0.attn1.to_q._backbone.lora_A.weight",
    f"{Q}.lora_B.weight": "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.default.weight",
    f"{OUT}.lora_A.weight": "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn2.processor.to_out_lora.down.weight",
    f"{OUT}.lora_B.weight": "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_out.0.lora.up.weight",
    f"{TE1}.lora_A.weight": "lora_te_text_model_encoder_layers_2_self_attn_v_proj.lora_down.weight",
    f"{TE1}.lora_B.weight": "text_encoder.encoder.layers.2.self_attn.v_proj.lora_B.weight",
    f"{TE2}.lora_A.weight": "lora_te2_transformer_resblocks_3_attn_q_proj.lora_down.weight",
    f"{TE2}.lora_B.weight": "text_encoder_2.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.up.weight",
}


def test_older_spellings_are_understood(base_shapes, tmp_path):
    pairs = matrices(base_shapes, (Q, OUT, TE1, TE2))
    given = {f"{module}.lora_{letter}.weight": array for module, pair in pairs.items() for letter, array in zip("AB", pair)}
    write_tensors(tmp_path / "a.safetensors", [(SPELLINGS[name], array) for name, array in given.items()])
    same(open_lora(tmp_path / "a.safetensors"), pairs)


def test_linear_layers_written_as_1x1_convolutions_are_read(base_shapes, tmp_path):
    pairs = matrices(base_shapes, (Q,))
    foreign = lora_names().foreign(Q, "kohya")
    tensors = zip(matrix_names("kohya", Q, foreign), (array[..., None, None] for array in pairs[Q]))
    write_tensors(tmp_path / "a.safetensors", tensors)
    same(open_lora(tmp_path / "a.safetensors"), pairs)


def test_alpha_of_peft_is_in_its_settings(base_shapes, tmp_path):
    pairs = matrices(base_shapes, rank=lambda i: 4)
    settings = {"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_out.0": 2, r"mid_block.*net.0.proj": 3}}
    settings |= {"text_encoder_2.lora_alpha": 2, "text_encoder_2.use_rslora": True}
    file = open_lora(file_of(tmp_path / "a.safetensors", pairs, "peft", None, {ADAPTER_METADATA: json.dumps(settings)}))
    assert [file.alpha(module) for module in MODULES] == [8.0, 2.0, 3.0, 4.0, 4.0, 4.0]


# -- what is refused -----------------------------------------------------------------------------------------------

NAME = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
BAD = {
    "magnitudes": ({f"{NAME}.dora_scale": (3, 1)}, "has the shape .3, 1., but its layer has 64 rows and 64 columns"),
    "magnitudes alone": ({"unet.mid_block.attentions.0.proj_in.lora_magnitude_vector": (64,)}, "the other half of the LoRA"),
    "LoHa": ({f"{NAME}.hada_w1_a": (64, 4)}, "holds LoHa matrices"),
    "LoKr": ({f"{NAME}.lokr_w1": (4, 4)}, "holds LoKr matrices"),
    "OFT": ({f"{NAME}.oft_blocks": (4, 4, 4)}, "holds OFT matrices"),
    "CP convolution": ({f"{NAME}.lora_mid.weight": (4, 4, 3, 3)}, "holds Tucker-decomposed convolution matrices"),
    "convolution in B": ({"lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight": (4, 32, 1, 1),
                          "lora_unet_input_blocks_1_0_in_layers_2.lora_up.weight": (32, 4, 3, 3)}, "fit no layer of SDXL"),
    "window of a linear layer": ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 16, 3, 3),
                                  "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (64, 4, 1, 1)}, "fit no layer of SDXL"),
    "half a convolution": ({"lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight": (4, 32, 3, 3)}, "the other half of the LoRA"),
    "left over": ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 64)}, "1 tensors that belong to no linear layer"),
    "other tensors": ({"first_stage_model.decoder.conv_in.weight": (4, 4, 3, 3)}, "is not a LoRA file, it holds 1 other"),
    "half": ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 16)}, "the other half of the LoRA is missing"),
    "ranks": ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 16),
               "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (64, 2)}, "have different ranks"),
    "vector": ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4,),
                "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": (64, 4)}, "which is no matrix"),
    "twice": ({"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": (4, 64)}, "twice"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_plain_lora_is_refused_in_one_sentence(base_shapes, tmp_path, kind):
    extra, words = BAD[kind]
    path = file_of(tmp_path / "a.safetensors", matrices(base_shapes, (Q,)), "kohya")
    with open(path, "rb") as file:
        from safetensors.numpy import load

        tensors = load(file.read())
    write_tensors(path, [*tensors.items(), *((name, np.zeros(shape, np.float32)) for name, shape in extra.items())])
    with pytest.raises(UserError, match=words) as error:
        open_lora(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_damaged_peft_settings_are_named(base_shapes, tmp_path):
    path = file_of(tmp_path / "a.safetensors", matrices(base_shapes, (Q,)), "peft", None, {ADAPTER_METADATA: "{"})
    with pytest.raises(UserError, match=f"metadata {ADAPTER_METADATA} is not JSON"):
        open_lora(path)


# -- fitting a model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_shapes():
    """LoRA shapes of the tiny model with LoRA in its UNet, as its YAML has it."""
    return expected_shapes(tiny.model(), tiny.adapters())[1]


def native_file(path, shapes, metadata=None, rank=4):
    """Zeros; `rank` may be a function of the module's number."""
    tensors = {}
    for i, (name, shape) in enumerate(shapes.items()):
        wanted = rank(i // 2) if callable(rank) else rank
        tensors[name] = np.zeros((wanted, shape[1]) if ".lora_A." in name else (shape[0], wanted), np.float32)
    save_lora(path, tensors, metadata or {})
    return path


def test_lora_files_are_checked(tiny_weights, base_shapes, trained_shapes, tmp_path):
    good = open_lora(native_file(tmp_path / "good.ckpt", trained_shapes, {"lora_alpha": "8.0"}))
    good.check(trained_shapes, 8.0)
    with pytest.raises(UserError, match="lora_alpha 8, but --config says 4: set lora_alpha to 8"):
        good.check(trained_shapes, 4.0)
    with pytest.raises(UserError, match="has rank 2, but lora_dim in --config is 4: set lora_dim to 2"):
        open_lora(native_file(tmp_path / "rank.ckpt", trained_shapes, rank=2)).check(trained_shapes, 4.0)
    with pytest.raises(UserError, match="has the ranks 2, 4, but training needs one"):
        mixed = native_file(tmp_path / "ranks.ckpt", trained_shapes, rank=lambda i: 2 if i else 4)
        open_lora(mixed).check(trained_shapes, 4.0)
    with pytest.raises(UserError, match="another model.*2 missing"):
        fewer = dict(list(trained_shapes.items())[2:])
        open_lora(native_file(tmp_path / "fewer.ckpt", fewer)).check(trained_shapes, 4.0)
    with pytest.raises(UserError, match="fit no weight of the base"):
        other = {name.replace("input_blocks.4", "input_blocks.9"): shape for name, shape in trained_shapes.items()}
        open_lora(native_file(tmp_path / "other.ckpt", other)).check_against_base(base_shapes)
    with pytest.raises(UserError, match="is a LoRA file, but base weights come first"):
        open_base(tmp_path / "good.ckpt").check(base_shapes)
    with pytest.raises(UserError, match="is not a LoRA file"):
        open_lora(tiny_weights)


def test_several_alphas_cannot_be_trained(base_shapes, trained_shapes, tmp_path):
    modules = [name.removesuffix(".lora_A.weight") for name in trained_shapes if name.endswith(".lora_A.weight")]
    pairs = matrices(base_shapes, modules, rank=lambda i: 4)
    path = file_of(tmp_path / "a.safetensors", pairs, "kohya", {module: 1.0 + i for i, module in enumerate(modules)})
    with pytest.raises(UserError, match="several alphas from 1 to"):
        open_lora(path).check(trained_shapes, 4.0)


def test_merging_is_the_sum_of_every_file_at_its_scale(base_shapes, tmp_path):
    first, second = matrices(base_shapes, (Q, TE2)), matrices(base_shapes, (Q, MLP), rank=lambda i: 5)
    files = [
        open_lora(file_of(tmp_path / "a.safetensors", first, "kohya", {Q: 1.0, TE2: 6.0})),
        open_lora(file_of(tmp_path / "b.ckpt", second, "native", None, {"lora_alpha": "10"})),
    ]
    stack = LoraStack(files, [0.5, -1.0])
    assert stack.ranks == {Q: 7, TE2: 3, MLP: 5}
    rng = np.random.default_rng(1)
    weights = {
        f"{module}.weight": rng.standard_normal(base_shapes[f"{module}.weight"]).astype(np.float16) for module in MODULES
    }
    read = merged(weights.__getitem__, stack)
    update = {Q: 0.5 * 0.5 * first[Q][1] @ first[Q][0] - 2.0 * second[Q][1] @ second[Q][0]}
    update |= {TE2: 0.5 * 2.0 * first[TE2][1] @ first[TE2][0], MLP: -2.0 * second[MLP][1] @ second[MLP][0]}
    for module, expected in update.items():
        assert np.allclose(read(f"{module}.weight"), weights[f"{module}.weight"] + expected, atol=1e-5)
    assert read(f"{OUT}.weight") is weights[f"{OUT}.weight"]
