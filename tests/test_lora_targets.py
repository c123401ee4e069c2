"""Which modules get a LoRA, with which rank and alpha: what the YAML's keys mean, and what is refused."""

import math
import re

import pytest

import tiny
from gm.checkpoint.lora_rules import TEXT_ENCODER_1, UNET, is_convolution, lora_names
from gm.config.load import load_config
from gm.config.types import LoraConfig, LoraPart
from gm.errors import UserError
from gm.models.adapters import NETWORKS, adapters_of, lora_facts
from gm.models.sdxl import expected_shapes

UNET_PARAMS = "model.params.network_config.params"
ENCODER = "model.params.conditioner_config.params.emb_models.0.params"
FULL = load_config(str(tiny.ROOT / "configs" / "inference" / "sd_xl_base.yaml"), training=False).model


def number(network: str, **keys) -> int:
    """Modules of the full-size network."""
    return len(adapters_of(FULL, {network: LoraConfig(rank=8, alpha=4.0, **keys)}))


@pytest.mark.parametrize(
    "targets, unet, first, second", [("attention", 560, 48, 128), ("linear", 722, 72, 192), ("all", 788, 72, 192)]
)
def test_the_modules_of_full_size_are_as_many_as_in_sd_scripts(targets, unet, first, second):
    """722, 72 and 192, and 788 with convolutions, are what sd-scripts' networks.lora says when it starts."""
    found = {network: number(network, targets=targets) for network in NETWORKS}
    assert found == {"unet": unet, "text_encoder_1": first, "text_encoder_2": second}


def test_what_convolutions_add(full_keys):
    """The layers below ResBlock, Downsample and Upsample of the official file, which are all but norms, transformers and ends."""
    names = lora_names()
    expected = {
        name.removesuffix(".weight")
        for name, shape in full_keys.items()
        if name.startswith(UNET)
        and name.endswith(".weight")
        and len(shape) > 1
        and re.search(r"in_layers\.2|out_layers\.3|emb_layers\.1|skip_connection|\.op\.|\.conv\.", name)
    }
    assert set(names.residual) == expected and len(expected) == 66
    shapes = {module: full_keys[f"{module}.weight"] for module in names.all if f"{module}.weight" in full_keys}
    assert all(is_convolution(module) == (len(shape) == 4) for module, shape in shapes.items())
    module = f"{UNET}output_blocks.2.2.conv"
    assert names.foreign(module, "kohya") == "lora_unet_output_blocks_2_2_conv"
    assert names.foreign(module, "peft") == "unet.up_blocks.0.upsamplers.0.conv"
    emb = f"{UNET}input_blocks.4.0.emb_layers.1"
    assert names.foreign(emb, "kohya-diffusers") == "lora_unet_down_blocks_1_resnets_0_time_emb_proj"


def test_the_names_are_the_networks_own():
    """Of the tiny model, whose blocks change their width at other places."""
    shapes = expected_shapes(tiny.model())[0]
    residual = lora_names(tiny.model()).residual
    assert residual and all(f"{module}.weight" in shapes for module in residual)
    skips = {name.removesuffix(".weight") for name in shapes if name.endswith("skip_connection.weight")}
    assert skips == {module for module in residual if module.endswith("skip_connection")}


def test_ranks_of_convolutions_and_parts():
    config = LoraConfig(
        rank=8,
        alpha=4.0,
        targets="all",
        conv_rank=2,
        conv_alpha=1.0,
        parts=(
            LoraPart("*.attn1.*", rank=3),
            LoraPart("middle_block.*", alpha=16.0),
            LoraPart("middle_block.1.*attn1.to_q", rank=5, alpha=6.0),
        ),
    )
    found = {n.removeprefix(UNET): (a.rank, a.alpha) for n, a in adapters_of(FULL, {"unet": config}).items()}
    expected = {
        "input_blocks.1.0.in_layers.2": (2, 1.0),
        "input_blocks.1.0.emb_layers.1": (8, 4.0),
        "input_blocks.4.0.skip_connection": (8, 4.0),
        "input_blocks.3.0.op": (2, 1.0),
        "input_blocks.4.1.proj_in": (8, 4.0),
        "input_blocks.4.1.transformer_blocks.0.attn1.to_q": (3, 4.0),
        "middle_block.0.out_layers.3": (2, 16.0),
        "middle_block.1.transformer_blocks.9.attn1.to_q": (5, 6.0),
        "middle_block.1.transformer_blocks.9.attn1.to_k": (3, 16.0),
    }
    assert {name: found[name] for name in expected} == expected
    plain = adapters_of(FULL, {"unet": LoraConfig(rank=8, alpha=4.0, targets="all")})
    assert {(a.rank, a.alpha) for a in plain.values()} == {(8, 4.0)}


def test_patterns_and_rslora():
    config = LoraConfig(rank=9, alpha=2.0, targets=("*.attn2.to_k", "out*.ff.net.2"), rslora=True)
    found = adapters_of(FULL, {"unet": config})
    assert {name.rpartition("blocks.")[2].partition(".")[2] for name in found} == {"attn2.to_k", "ff.net.2"}
    assert len([name for name in found if name.endswith("to_k")]) == 70
    assert all("output_blocks" in name for name in found if name.endswith("net.2"))
    for adapter in found.values():  # its scale is alpha / sqrt(rank), and a file says alpha so that alpha / rank is that
        assert adapter.alpha / adapter.rank == pytest.approx(2.0 / math.sqrt(9))
    assert lora_facts(found) == ({"lora_rank": "9", "lora_alpha": "6.0"}, {})


def test_a_file_says_alphas_that_differ_module_by_module():
    config = LoraConfig(rank=4, alpha=4.0, parts=(LoraPart("*to_v", alpha=1.0),))
    adapters = adapters_of(tiny.model(), {"text_encoder_1": LoraConfig(2, 1.0), "unet": config})
    about, alphas = lora_facts(adapters)
    assert about == {} and alphas.keys() == {f"{module}.alpha" for module in adapters}
    assert {float(a) for name, a in alphas.items() if "to_v" in name or name.startswith(TEXT_ENCODER_1)} == {1.0}


def test_the_keys_of_a_yaml():
    more = [
        "lora_targets=['*attn1*', '*in_layers*']",
        "lora_conv_dim=2",
        "lora_conv_alpha=1",
        "lora_parts=[{pattern: '*to_q', dim: 3}]",
        "lora_neuron_dropout=0.1",
        "lora_rank_dropout=0.2",
        "lora_module_dropout=0.3",
        "lora_kind=dora",
        "lora_rslora=True",
    ]
    lora = load_config(str(tiny.TRAINING), [f"{UNET_PARAMS}.{key}" for key in more]).lora["unet"]
    assert lora == LoraConfig(
        rank=4,
        alpha=4.0,
        targets=("*attn1*", "*in_layers*"),
        conv_rank=2,
        conv_alpha=1.0,
        parts=(LoraPart("*to_q", rank=3),),
        neuron_dropout=0.1,
        rank_dropout=0.2,
        module_dropout=0.3,
        kind="dora",
        rslora=True,
    )
    adapter = next(iter(adapters_of(tiny.model(), {"unet": lora}).values()))
    assert (adapter.kind, adapter.rank, adapter.alpha) == ("dora", 3, 4.0 * math.sqrt(3))
    assert (adapter.neuron_dropout, adapter.rank_dropout, adapter.module_dropout) == (0.1, 0.2, 0.3)


BAD = {
    "lora_targets=conv": "lora_targets is 'conv', but must be attention, linear, all, or a list of patterns",
    "lora_targets=[]": "lora_targets must be text or a list of texts, not []",
    "lora_targets=[1]": "lora_targets must be text or a list of texts, not [1]",
    "lora_conv_dim=4": "lora_conv_dim is 4, but this LoRA goes into no convolution",
    "lora_conv_alpha=4": "lora_conv_alpha is 4.0, but this LoRA goes into no convolution",
    "lora_parts=[{pattern: a}]": "the item 'a' of lora_parts changes nothing",
    "lora_parts=[{pattern: a, alpha: 0}]": "the item 'a' of lora_parts has alpha 0",
    "lora_parts=[{patern: a, dim: 1}]": "did you mean 'pattern'",
    "lora_rank_dropout=1": "lora_rank_dropout is 1, but must be below 1",
    "lora_module_dropout=1.5": "lora_module_dropout is 1.5, but must be below 1",
    "lora_kind=loha": "lora_kind is 'loha', but only 'lora' or 'dora' is supported",
}


@pytest.mark.parametrize("key", BAD)
def test_wrong_keys_are_refused(key):
    with pytest.raises(UserError, match=re.escape(BAD[key])) as error:
        load_config(str(tiny.TRAINING), [f"{UNET_PARAMS}.{key}"])
    assert "\n" not in str(error.value)


def test_a_text_encoder_has_no_convolutions():
    with pytest.raises(UserError, match="lora_conv_dim is 4, but this LoRA goes into no convolution"):
        load_config(str(tiny.TEXT_TRAINING), [f"{ENCODER}.lora_targets=all", f"{ENCODER}.lora_conv_dim=4"])


@pytest.mark.parametrize(
    "more, words",
    [
        ({"targets": ("*atn1.to_q",)}, "lora_targets has the pattern '*atn1.to_q', which matches no module of the network"),
        ({"parts": (LoraPart("*.ff.*", 2),)}, "lora_parts has the pattern '*.ff.*', which matches no module"),
        ({"targets": ("*to_q",), "conv_rank": 2}, "no pattern of lora_targets (*to_q) matches one"),
    ],
)
def test_patterns_without_a_module_are_refused(more, words):
    with pytest.raises(UserError, match=re.escape(words)) as error:
        adapters_of(tiny.model(), {"unet": LoraConfig(4, 4.0, **more)})
    assert "attn1.to_q" in str(error.value) or "atn1" not in words
