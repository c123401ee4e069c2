"""LoRA files between this suite and the real diffusers + PEFT: what one writes the other loads, with the same outputs."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

import tiny
from diffusers_pipeline import (
    OurNetworks,
    attached,
    largest_error,
    our_latents,
    pipeline,
    their_latents,
    their_outputs,
    tokens,
    unet_output,
)
from gm.checkpoint.lora_files import open_lora, save_lora
from gm.checkpoint.lora_rules import LAYOUTS, lora_names
from gm.checkpoint.lora_stack import LoraStack, with_given_lora
from gm.checkpoint.weights import open_base
from gm.models import sdxl
from tools import export_lora, merge_lora

ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0", ".q_proj", ".k_proj", ".v_proj", ".out_proj")
pytestmark = pytest.mark.xdist_group("diffusers")


@pytest.fixture(scope="module")
def ours(tiny_weights):
    return OurNetworks(open_base(tiny_weights))


@pytest.fixture(scope="module")
def pipe(tiny_weights, base_shapes):
    return pipeline(tiny_weights, base_shapes)


@pytest.fixture(autouse=True)
def without_lora(request):
    """The pipeline is shared; a test leaves it as it was."""
    yield
    if "pipe" in request.fixturenames:
        request.getfixturevalue("pipe").unload_lora_weights()


def random_lora(path, base_shapes, ranks, alpha=None):
    """A native LoRA; `ranks`: a function of a module's name and number that gives its rank, 0 for none."""
    rng, matrices = np.random.default_rng(3), {}
    for i, module in enumerate(lora_names(tiny.model()).modules):
        rank, (rows, columns) = ranks(module, i), base_shapes[f"{module}.weight"]
        if rank:
            matrices[f"{module}.lora_A.weight"] = rng.standard_normal((rank, columns), np.float32) / columns**0.5
            matrices[f"{module}.lora_B.weight"] = rng.standard_normal((rows, rank), np.float32) * np.float32(0.3)
            if alpha is None:
                matrices[f"{module}.alpha"] = np.array(1.0 + i % 4, np.float32)
    save_lora(path, matrices, {} if alpha is None else {"lora_alpha": str(alpha)})
    return path


@pytest.fixture(scope="module")
def trained(base_shapes, tmp_path_factory):
    """As training writes it: rank 4 and alpha 2 in all attention of the three networks."""
    path = tmp_path_factory.mktemp("lora") / "trained.ckpt"
    return random_lora(path, base_shapes, lambda module, _: 4 if module.endswith(ATTENTION) else 0, 2.0)


@pytest.fixture(scope="module")
def larger(base_shapes, tmp_path_factory):
    """kohya's larger target set, with rank and alpha of its own in every module."""
    return random_lora(tmp_path_factory.mktemp("lora") / "larger.ckpt", base_shapes, lambda _, i: 1 + i % 5)


@pytest.fixture(scope="module")
def expected(ours, golden, trained, larger):
    """(name, scale) -> our outputs with that LoRA."""
    files = {"trained": open_lora(trained), "larger": open_lora(larger)}
    return {(name, scale): ours.outputs(golden, [file], [scale]) for name, file in files.items() for scale in (1.0, 0.5)}


def test_both_have_the_same_base(pipe, ours, golden):
    theirs = their_outputs(pipe, golden)
    assert largest_error(theirs, ours.outputs(golden)) < 1e-4
    assert tiny.relative_error(theirs["unet"], golden["unet.out"]) < 1e-4


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["trained", "larger"])
def test_diffusers_loads_what_is_exported(pipe, ours, golden, expected, trained, larger, tmp_path, layout, name):
    given = {"trained": trained, "larger": larger}[name]
    path = tmp_path / f"{layout}.safetensors"
    export_lora.main(["--lora", str(given), "--output", str(path), "--format", layout])
    pipe.load_lora_weights(str(path), adapter_name="ours")
    assert (
        attached(pipe)
        == {
            "trained": {"unet": 136, "text_encoder": 16, "text_encoder_2": 16},
            "larger": {"unet": 192, "text_encoder": 24, "text_encoder_2": 24},
        }[name]
    )
    plain = ours.outputs(golden)
    for scale in (1.0, 0.5):
        pipe.set_adapters("ours", scale)
        assert largest_error(their_outputs(pipe, golden), expected[name, scale]) < 1e-4, scale
        assert all(tiny.relative_error(expected[name, scale][what], plain[what]) > 0.05 for what in plain)


# -- the other way -------------------------------------------------------------------------------------------------

SPELLINGS = ("PEFT with settings", "PEFT", "script", "kohya")


def saved_by_diffusers(pipe, folder, spelling):
    """Adapters of PEFT with random matrices on the pipeline, saved as diffusers' training scripts do.

    Where the file does not say alpha it is the rank.
    """
    alpha = {"PEFT with settings": 6, "kohya": 5}.get(spelling, 3)
    attention = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
    pattern = {"rank_pattern": {"proj_in": 2}, "alpha_pattern": {"proj_in": 1}} if spelling == "PEFT with settings" else {}
    pipe.unet.add_adapter(LoraConfig(r=3, lora_alpha=alpha, target_modules=attention, **pattern))
    networks = {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "text_encoder_2": pipe.text_encoder_2}
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        encoder.add_adapter(
            LoraConfig(r=3, lora_alpha=alpha, target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc1"])
        )
    generator = torch.Generator().manual_seed(5)
    for network in networks.values():
        for name, parameter in network.named_parameters():
            if ".lora_" in name:
                size = parameter.shape[1] ** -0.5 if ".lora_A." in name else 0.3
                parameter.data = size * torch.randn(parameter.shape, generator=generator)
    states = {name: get_peft_model_state_dict(network) for name, network in networks.items()}
    if spelling == "kohya":
        tensors = convert_state_dict_to_kohya(
            {f"{part}.{name}": t for part, state in states.items() for name, t in state.items()}
        )
        tensors = {name: torch.tensor(float(alpha)) if name.endswith(".alpha") else t for name, t in tensors.items()}
        save_file(tensors, folder / "kohya.safetensors")
        return folder / "kohya.safetensors"
    if spelling == "script":
        states = {name: convert_state_dict_to_diffusers(state) for name, state in states.items()}
    about = _collate_lora_metadata(networks) if spelling == "PEFT with settings" else {}
    StableDiffusionXLPipeline.save_lora_weights(
        folder,
        unet_lora_layers=states["unet"],
        text_encoder_lora_layers=states["text_encoder"],
        text_encoder_2_lora_layers=states["text_encoder_2"],
        **about,
    )
    return folder / "pytorch_lora_weights.safetensors"


def lora_layers(pipe):
    networks = (pipe.unet, pipe.text_encoder, pipe.text_encoder_2)
    return [layer for network in networks for layer in network.modules() if isinstance(layer, LoraLayer)]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_diffusers_saves_is_loaded(pipe, ours, golden, tmp_path, spelling):
    path = saved_by_diffusers(pipe, tmp_path, spelling)
    file = open_lora(path, tiny.model())
    assert len(file.modules) == sum(attached(pipe).values()) == 192 + 2 * 4 * 5
    for scale in (1.0, 0.5):
        for layer in lora_layers(pipe):
            layer.set_scale("default", scale)
        assert largest_error(ours.outputs(golden, [file], [scale]), their_outputs(pipe, golden)) < 1e-4, scale


def test_lora_apart_from_the_weights_is_what_merging_gives(ours, golden, tiny_weights, larger, expected):
    """Two files with a rank of their own in every linear layer, as two matrices there."""
    stack = LoraStack([open_lora(larger), open_lora(larger)], [0.25, 0.75])
    read = with_given_lora(open_base(tiny_weights).read, stack.read)
    unet = sdxl.build_unet(tiny.model(), adapters=stack.adapters)
    text = sdxl.build_text_encoders(tiny.model(), adapters=stack.adapters)
    sdxl.fill([unet, text], read)
    context, pooled = (array.asnumpy() for array in text(*tokens(golden)))
    found = {"unet": unet_output(unet, golden), "context": context, "pooled": pooled}
    assert largest_error(found, expected["larger", 1.0]) < 1e-4


def test_diffusers_samples_from_a_merged_base_what_we_sample_with_the_lora(
    ours, golden, base_shapes, tiny_weights, trained, larger, tmp_path
):
    path = tmp_path / "merged.safetensors"
    loras = ["--weight", f"{tiny_weights},{trained},{larger}", "--lora_scale", "0.4,0.3"]
    merge_lora.main([*loras, "--output", str(path), "--dtype", "float32"])
    ours.fill([open_lora(trained), open_lora(larger)], [0.4, 0.3])
    sampled = our_latents(ours, golden)
    assert tiny.relative_error(their_latents(pipeline(path, base_shapes), golden), sampled) < 1e-3
    ours.fill([], [])
    assert tiny.relative_error(our_latents(ours, golden), sampled) > 0.05
