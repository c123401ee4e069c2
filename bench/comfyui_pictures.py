"""Is the picture of a seed ComfyUI's? ComfyUI's own code samples the same weights beside this suite; prints a table.

    python bench/comfyui_pictures.py --comfyui ../ComfyUI --config configs/inference/tiny_sdxl.yaml --weight BASE.safetensors

--comfyui is a checkout of ComfyUI; it computes on the CPU, with its UNet, model, samplers and schedules. PyTorch and what
ComfyUI imports must be installed (einops, torchsde, scipy, psutil), but for packages that sampling never calls, which are
replaced by empty modules. Prompts are encoded and latents decoded by this suite for both, so that sampling alone is compared.
The weights must have the official names.
"""

import argparse
import importlib.abc
import importlib.machinery
import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from gm import runtime
from gm.config.load import load_config
from gm.config.types import ModelConfig, SampleSettings
from gm.data.pixels import to_pixels
from gm.diffusion.schedule import DISCRETIZATIONS
from gm.runtime import Runtime

NOT_CALLED = ("torchvision", "torchaudio", "av", "sentencepiece", "aiohttp")
UNET = "model.diffusion_model."


@dataclass(frozen=True)
class Pair:
    """One way to sample by both names."""

    sampler: str
    discretization: str
    theirs: str
    scheduler: str  # "": ComfyUI is given our levels


PAIRS = (
    Pair("EulerEDMSampler", "Normal", "euler", "normal"),
    Pair("EulerEDMSampler", "Karras", "euler", "karras"),
    Pair("EulerEDMSampler", "SGMUniform", "euler", "sgm_uniform"),
    Pair("EulerEDMSampler", "Simple", "euler", "simple"),
    Pair("EulerAncestralSampler", "Normal", "euler_ancestral", "normal"),
    Pair("HeunEDMSampler", "Karras", "heun", "karras"),
    Pair("DPMPP2MSampler", "Karras", "dpmpp_2m", "karras"),
    Pair("DPMPP2SAncestralSampler", "Karras", "dpmpp_2s_ancestral", "karras"),
    Pair("DPMPPSDESampler", "Karras", "dpmpp_sde", "karras"),
    Pair("DPMPP2MSDESampler", "Exponential", "dpmpp_2m_sde", "exponential"),
    Pair("LinearMultistepSampler", "Normal", "lms", "normal"),
    Pair("LCMSampler", "SGMUniform", "lcm", "sgm_uniform"),
    Pair("EulerEDMSampler", "Leading", "ddim", "ddim_uniform"),  # its "ddim" is Euler's method
    # by itself ComfyUI leaves out the level before the last here, of a schedule of one step more
    Pair("UniPCBH1Sampler", "Normal", "uni_pc", ""),
    Pair("UniPCBH2Sampler", "Normal", "uni_pc_bh2", ""),
)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", required=True, type=Path, help="a checkout of ComfyUI")
    parser.add_argument("--config", default="configs/inference/sd_xl_base.yaml")
    parser.add_argument("--weight", required=True, help="a .safetensors with official names")
    parser.add_argument("--prompt", default="a photo of a dog on a beach")
    parser.add_argument("--negative_prompt", default="blurry")
    parser.add_argument("--size", type=int, default=128, help="pixels of the square")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--scale", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=2**32 + 5)
    options = parser.parse_args(argv)
    model = load_config(options.config, [], training=False).model
    ours = Ours(options, model)
    theirs = Theirs(options, model, *ours.texts)
    print(
        "| sampler | schedule | ComfyUI | largest difference of latents (of the largest) | grey levels |\n|---|---|---|---|---|"
    )
    for pair in PAIRS:
        found, expected = ours.latents(pair), theirs.latents(pair)
        grey = np.abs(ours.picture(found).astype(int) - ours.picture(expected)).max()
        error = np.abs(found - expected).max() / np.abs(expected).max()
        print(
            f"| {pair.sampler} | {pair.discretization} | {pair.theirs}, {pair.scheduler or 'our levels'} | {error:.1e} | {grey} |",
            flush=True,
        )


class Ours:
    """This suite, on the CPU."""

    def __init__(self, options: argparse.Namespace, model: ModelConfig):
        self.options = options
        machine = runtime.start(Runtime("CPU", 0, "O0"), 0, [model])
        from gm.encoding.source import Source
        from gm.sampling.pipeline import Pipeline

        self.pipeline = Pipeline(Source(model, options.weight, machine))
        self.pipeline.embed([options.prompt, options.negative_prompt])
        self.pipeline.load()
        self.texts = [self.pipeline.texts[text] for text in (options.prompt, options.negative_prompt)]

    def latents(self, pair: Pair) -> np.ndarray:
        """(1, z, h, w)"""
        options = self.options
        settings = replace(
            SampleSettings.square(options.size, options.steps),
            sampler=pair.sampler,
            discretization=pair.discretization,
            guidance_scale=options.scale,
            noise="comfyui",
        )
        return self.pipeline.pictures.latents(*self.texts, settings, [options.seed], pair.theirs)

    def picture(self, latents: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8"""
        return to_pixels(self.pipeline.pictures.decode(latents)[0])


class Theirs:
    """ComfyUI, on the CPU."""

    def __init__(self, options: argparse.Namespace, model: ModelConfig, text, negative):
        sys.path.insert(0, str(options.comfyui.resolve()))
        sys.meta_path.append(EmptyModules())
        import comfy.options

        sys.argv = [sys.argv[0], "--cpu"]
        comfy.options.enable_args_parsing()
        import comfy.model_base
        import comfy.model_patcher
        import comfy.sample
        import comfy.supported_models
        import safetensors.torch
        import torch

        self.sample, self.torch, self.options = comfy.sample, torch, options
        self.scale_factor, self.channels = model.scale_factor, model.unet.in_channels
        config = comfy.supported_models.SDXL({})
        config.unet_config = unet_settings(model)
        network = comfy.model_base.SDXL(config)
        weights = safetensors.torch.load_file(options.weight)
        weights = {name[len(UNET) :]: value.float() for name, value in weights.items() if name.startswith(UNET)}
        network.diffusion_model.load_state_dict(weights)
        self.model = comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
        sizes = {name: options.size for name in ("width", "height", "target_width", "target_height")}
        self.texts = [
            [[torch.from_numpy(one.context)[None], {"pooled_output": torch.from_numpy(one.pooled)[None], **sizes}]]
            for one in (text, negative)
        ]

    def latents(self, pair: Pair) -> np.ndarray:
        """(1, z, h, w), scaled as the network has them; by the way of ComfyUI's node KSampler."""
        options = self.options
        empty = self.torch.zeros(1, self.channels, options.size // 8, options.size // 8)
        noise = self.sample.prepare_noise(empty, options.seed)
        how = (options.steps, options.scale, pair.theirs, pair.scheduler or "normal", *self.texts, empty)
        levels = None if pair.scheduler else DISCRETIZATIONS[pair.discretization](options.steps)
        given = {} if levels is None else {"sigmas": self.torch.tensor(levels, dtype=self.torch.float32)}
        with self.torch.inference_mode():
            made = self.sample.sample(self.model, noise, *how, disable_pbar=True, seed=options.seed, **given)
        return made.numpy() * self.scale_factor


def unet_settings(model: ModelConfig) -> dict[str, object]:
    """What ComfyUI's UNet is called with; the depth of the transformers is there a list over all blocks."""
    unet = model.unet
    depths = [depth if 2**level in unet.attention_resolutions else 0 for level, depth in enumerate(unet.transformer_depth)]
    return {
        **{name: getattr(unet, name) for name in ("in_channels", "out_channels", "model_channels", "channel_mult")},
        **{name: getattr(unet, name) for name in ("context_dim", "adm_in_channels", "num_head_channels")},
        "image_size": 32,
        "num_res_blocks": [unet.num_res_blocks] * len(depths),
        "transformer_depth": [depth for depth in depths for _ in range(unet.num_res_blocks)],
        "transformer_depth_output": [depth for depth in depths for _ in range(unet.num_res_blocks + 1)],
        "transformer_depth_middle": depths[-1],
        "num_classes": "sequential",
        "use_spatial_transformer": True,
        "use_linear_in_transformer": True,
        "legacy": False,
    }


class EmptyModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages of NOT_CALLED where they are not installed: modules that have every class, an empty one."""

    class Module(types.ModuleType):
        __path__: list[str] = []

        def __getattr__(self, name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    def find_spec(self, fullname, path, target=None):
        if fullname.split(".")[0] in NOT_CALLED:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return self.Module(spec.name)

    def exec_module(self, module):
        pass


if __name__ == "__main__":
    main()
