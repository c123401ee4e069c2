"""LoRA files between this suite and the real diffusers + PEFT: what one writes the other loads, with the same outputs."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import tiny
from gm.checkpoint.io import write_tensors
from gm.checkpoint.lora_files import open_lora, save_lora
from gm.checkpoint.lora_rules import LAYOUTS, lora_names, matrix_names
from gm.checkpoint.lora_stack import LoraStack, merged, with_given_lora
from gm.checkpoint.lora_strength import Strength
from gm.checkpoint.weights import open_base
from gm.config.types import Adapter, SampleSettings
from gm.encoding.text import TextEmbedding, unconditional
from gm.models import sdxl
from gm.models.layers import Conv2d, Linear
from gm.options.lora import blocks_of
from gm.sampling.latents import LatentSampler
from modes import in_mode
from tools import export_lora, merge_lora

ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0", ".q_proj", ".k_proj", ".v_proj", ".out_proj")
pytestmark = pytest.mark.xdist_group("diffusers")


class OurNetworks:
    """Our UNet and text encoders, compiled once and filled anew for each LoRA, which is merged."""

    def __init__(self, base):
        ms.set_device("CPU")
        ms.set_context(mode=ms.GRAPH_MODE)
        self.base, self.unet, self.text = base, sdxl.build_unet(tiny.model()), sdxl.build_text_encoders(tiny.model())
        self.sampler = LatentSampler(self.unet, tiny.model())

    def fill(self, files, scales) -> None:
        sdxl.fill([self.unet, self.text], merged(self.base.read, LoraStack(files, scales)))

    def outputs(self, golden, files=(), scales=()) -> dict[str, np.ndarray]:
        self.fill(files, scales)
        context, pooled = self.text(*tokens(golden))
        return {"unet": unet_output(self.unet, golden), "context": context.asnumpy(), "pooled": pooled.asnumpy()}


def tokens(golden) -> list[Tensor]:
    return [Tensor(golden[f"cond.tokens_{letter}"].astype(np.int32)) for letter in "lg"]


def unet_output(unet, golden) -> np.ndarray:
    names = ("unet.x", "unet.timesteps", "cond.context", "cond.vector")
    return unet(*(Tensor(golden[name].astype(np.float32)) for name in names)).asnumpy()


def largest_error(given: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    assert set(given) == set(expected)
    return max(tiny.relative_error(given[name], expected[name]) for name in expected)


def our_latents(ours: OurNetworks, golden) -> np.ndarray:
    """The latent (1, 4, h, w) of the first golden prompt after 10 Euler steps, guidance 5, from `sample.x_T`."""
    context, pooled = (array.asnumpy()[0] for array in ours.text(*tokens(golden)))
    settings = SampleSettings(128, 128, tuple(int(n) for n in tiny.sizes(golden)[0]), steps=10)
    text = TextEmbedding(context, pooled)
    with in_mode(ms.PYNATIVE_MODE):  # nothing more to compile
        return ours.sampler(text, unconditional(text), settings, golden["sample.x_T"], None, "ours")


@pytest.fixture(scope="module")
def theirs():
    """What diffusers does; it and PyTorch take 8 s to import, here only where a test needs them."""
    import diffusers_pipeline

    return diffusers_pipeline


@pytest.fixture(scope="module")
def ours(tiny_weights):
    return OurNetworks(open_base(tiny_weights))


@pytest.fixture(scope="module")
def pipe(theirs, tiny_weights, base_shapes):
    return theirs.pipeline(tiny_weights, base_shapes)


@pytest.fixture(autouse=True)
def without_lora(request):
    """The pipeline is shared; a test leaves it as it was."""
    yield
    if "pipe" in request.fixturenames:
        request.getfixturevalue("pipe").unload_lora_weights()


def random_lora(path, base_shapes, ranks, alpha=None, modules=lora_names(tiny.model()).modules, base=None):
    """A native LoRA; `ranks`: a function of a module's name and number that gives its rank, 0 for none. With `base` a DoRA."""
    rng, matrices = np.random.default_rng(3), {}
    for i, module in enumerate(modules):
        rank, (rows, columns, *window) = ranks(module, i), base_shapes[f"{module}.weight"]
        if rank:
            inputs = columns * np.prod(window, dtype=int)
            a = rng.standard_normal((rank, columns, *window), np.float32) / inputs**0.5
            b = rng.standard_normal((rows, rank, *(1 for _ in window)), np.float32) * np.float32(0.3)
            matrices |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
            if base:
                lengths = np.linalg.norm(base.read(f"{module}.weight").astype(np.float32).reshape(rows, -1), axis=1)
                matrices[f"{module}.lora_magnitude_vector.weight"] = lengths * rng.uniform(0.8, 1.25, rows).astype(np.float32)
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


def test_both_have_the_same_base(theirs, pipe, ours, golden):
    found = theirs.outputs(pipe, golden)
    assert largest_error(found, ours.outputs(golden)) < 1e-4
    assert tiny.relative_error(found["unet"], golden["unet.out"]) < 1e-4


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["trained", "larger"])
def test_diffusers_loads_what_is_exported(theirs, pipe, ours, golden, expected, trained, larger, tmp_path, layout, name):
    given = {"trained": trained, "larger": larger}[name]
    path = tmp_path / f"{layout}.safetensors"
    export_lora.main(["--lora", str(given), "--output", str(path), "--format", layout])
    pipe.load_lora_weights(str(path), adapter_name="ours")
    assert (
        theirs.attached(pipe)
        == {
            "trained": {"unet": 136, "text_encoder": 16, "text_encoder_2": 16},
            "larger": {"unet": 192, "text_encoder": 24, "text_encoder_2": 24},
        }[name]
    )
    plain = ours.outputs(golden)
    for scale in (1.0, 0.5):
        pipe.set_adapters("ours", scale)
        assert largest_error(theirs.outputs(pipe, golden), expected[name, scale]) < 1e-4, scale
        assert all(tiny.relative_error(expected[name, scale][what], plain[what]) > 0.05 for what in plain)


@pytest.fixture(scope="module")
def everywhere(ours, base_shapes, golden, tmp_path_factory):
    """LoCon and DoRA in every layer that has a name: kind -> file, and our outputs with it."""
    folder, modules = tmp_path_factory.mktemp("lora"), lora_names(tiny.model()).all
    found = {}
    for kind, base in (("locon", None), ("dora", ours.base)):
        path = random_lora(folder / f"{kind}.ckpt", base_shapes, lambda _, i: 1 + i % 3, 2.0, modules, base)
        found[kind] = path, ours.outputs(golden, [open_lora(path)], [1.0])
    return found


@pytest.mark.parametrize("kind, layout", [("locon", "kohya"), ("locon", "peft"), ("dora", "peft")])
def test_diffusers_loads_convolutions_and_dora(theirs, pipe, golden, everywhere, tmp_path, kind, layout):
    path, expected = everywhere[kind]
    exported = tmp_path / "a.safetensors"
    export_lora.main(["--lora", str(path), "--output", str(exported), "--format", layout])
    pipe.load_lora_weights(str(exported), adapter_name="ours")
    assert theirs.attached(pipe) == {"unet": 258, "text_encoder": 24, "text_encoder_2": 24}
    assert largest_error(theirs.outputs(pipe, golden), expected) < 1e-4


@pytest.mark.parametrize("is_convolution", [False, True])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_layer_is_pefts_with_its_gradients(theirs, kind, is_convolution):
    found, expected = _layers(theirs, kind, is_convolution)
    assert len(found) == len(expected) == (4 if kind == "dora" else 3)
    for own, other in zip(found, expected):
        assert own.shape == other.shape and tiny.relative_error(own, other) < 1e-5


def _layers(theirs, kind, is_convolution):
    """Output and the gradients of A and B, and of a DoRA's magnitudes: of our layer and of PEFT's."""
    output, parameters, gradients, x, weights = theirs.adapted_layer(kind == "dora", is_convolution)
    adapter = Adapter(3, 6.0, kind=kind)
    if is_convolution:
        layer = Conv2d(10, 7, 3, ms.float32, stride=2, padding=1, adapter=adapter)
    else:
        layer = Linear(10, 7, True, ms.float32, adapter)
    names = {name: parameter for name, parameter in layer.parameters_and_names()}
    assert set(names) == set(parameters)
    for name, parameter in names.items():
        parameter.set_data(Tensor(parameters[name]))
    weights = Tensor(weights)
    with in_mode(ms.PYNATIVE_MODE):

        def loss(x):
            y = layer(x)
            return (y * weights).sum(), y

        slope = ms.value_and_grad(loss, None, [names[name] for name in gradients], has_aux=True)
        (_, y), found = slope(Tensor(x))
    return [y.asnumpy(), *(g.asnumpy() for g in found)], [output, *gradients.values()]


# -- the other way -------------------------------------------------------------------------------------------------

SPELLINGS = ("PEFT with settings", "PEFT", "script", "kohya")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_diffusers_saves_is_loaded(theirs, pipe, ours, golden, tmp_path, spelling):
    path = theirs.saved_by_diffusers(pipe, tmp_path, spelling)
    file = open_lora(path, tiny.model())
    assert len(file.modules) == sum(theirs.attached(pipe).values()) == 192 + 2 * 4 * 5
    for scale in (1.0, 0.5):
        for layer in theirs.lora_layers(pipe):
            layer.set_scale("default", scale)
        assert largest_error(ours.outputs(golden, [file], [scale]), theirs.outputs(pipe, golden)) < 1e-4, scale


@pytest.mark.parametrize("layout", ["diffusers", "peft"])
def test_settings_beside_either_of_diffusers_layouts_are_used(theirs, pipe, ours, golden, base_shapes, tmp_path, layout):
    """r 4 and alpha 8 in the metadata: strength 2, but for modules with an alpha of their own."""
    attention = lambda module, _: 4 if module.endswith(ATTENTION) else 0  # noqa: E731
    given = open_lora(random_lora(tmp_path / "a.ckpt", base_shapes, attention, 4.0))
    settings = {}
    for network in ("unet", "text_encoder", "text_encoder_2"):
        settings |= {
            f"{network}.r": 4,
            f"{network}.lora_alpha": 8,
            f"{network}.alpha_pattern": {"attn2.to_k": 2, "0.*v_proj": 1},
        }
        settings[f"{network}.target_modules"] = [name.removeprefix(".") for name in ATTENTION]
    names, tensors = lora_names(), {}
    for module in given.modules:
        matrices = (given.read(f"{module}.lora_{letter}.weight") for letter in "AB")
        tensors |= dict(zip(matrix_names(layout, module, names.foreign(module, layout)), matrices))
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors.items(), {"lora_adapter_metadata": json.dumps(settings)})
    file = open_lora(path)
    assert file.layout == layout and {file.scale(module) for module in file.modules} == {2.0, 0.5, 0.25}
    pipe.load_lora_weights(str(path), adapter_name="ours")
    assert sum(theirs.attached(pipe).values()) == len(file.modules)
    assert largest_error(ours.outputs(golden, [file], [1.0]), theirs.outputs(pipe, golden)) < 1e-4


def test_strengths_by_network_and_block_are_those_of_diffusers(theirs, pipe, ours, golden, trained, larger, tmp_path):
    """Two LoRA, one by block: its `set_adapters` takes the strength of each transformer, and of each text encoder."""
    files = []
    for name, given in (("trained", trained), ("larger", larger)):
        export_lora.main(["--lora", str(given), "--output", str(tmp_path / f"{name}.safetensors"), "--format", "peft"])
        pipe.load_lora_weights(str(tmp_path / f"{name}.safetensors"), adapter_name=name)
        files.append(open_lora(given))
    down, up = {"block_1": [0.5, 1.0], "block_2": [0.0, 2.0]}, {"block_0": [0.3, 1.0, 1.0], "block_1": 0.6}
    by_block = {"unet": {"down": down, "mid": -0.5, "up": up}, "text_encoder": 0.25, "text_encoder_2": 0.25}
    pipe.set_adapters(["trained", "larger"], [by_block, {"unet": 0.7, "text_encoder": 0.1, "text_encoder_2": 0.1}])
    blocks = blocks_of("in.4=0.5,in.7=0,in.8=2,mid=-0.5,out.0=0.3,out.3=0.6,out.4=0.6,out.5=0.6")
    found = ours.outputs(golden, files, [Strength(1.0, 0.25, blocks), Strength(0.7, 0.1)])
    assert largest_error(found, theirs.outputs(pipe, golden)) < 1e-4
    assert largest_error(found, ours.outputs(golden, files, [Strength(1.0, 0.25), Strength(0.7, 0.1)])) > 0.01


def test_lora_apart_from_the_weights_is_what_merging_gives(ours, golden, tiny_weights, larger, expected):
    """Two files with a rank of their own in every linear layer, as two matrices there."""
    stack = LoraStack([open_lora(larger), open_lora(larger)], [0.25, 0.75])
    read = with_given_lora(open_base(tiny_weights).read, stack.read)
    unet = sdxl.build_unet(tiny.model(), adapters=stack.adapters)
    text = sdxl.build_text_encoders(tiny.model(), adapters=stack.adapters)
    sdxl.fill([unet, text], read)
    with in_mode(ms.PYNATIVE_MODE):  # nothing to compile
        context, pooled = (array.asnumpy() for array in text(*tokens(golden)))
        found = {"unet": unet_output(unet, golden), "context": context, "pooled": pooled}
    assert largest_error(found, expected["larger", 1.0]) < 1e-4


def test_diffusers_samples_from_a_merged_base_what_we_sample_with_the_lora(
    theirs, ours, golden, base_shapes, tiny_weights, trained, larger, tmp_path
):
    path = tmp_path / "merged.safetensors"
    loras = ["--weight", f"{tiny_weights},{trained},{larger}", "--lora_scale", "0.4,0.3"]
    merge_lora.main([*loras, "--output", str(path), "--dtype", "float32"])
    ours.fill([open_lora(trained), open_lora(larger)], [0.4, 0.3])
    sampled = our_latents(ours, golden)
    assert tiny.relative_error(theirs.latents(theirs.pipeline(path, base_shapes), golden), sampled) < 1e-3
    ours.fill([], [])
    assert tiny.relative_error(our_latents(ours, golden), sampled) > 0.05
