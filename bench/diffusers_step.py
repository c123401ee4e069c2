"""The same training step in diffusers + peft + PyTorch, for comparison; bench/full_size.py runs it in an environment of
its own and reads the JSON on its last line.

A UNet2DConditionModel with random weights and LoRA on to_q, to_k, to_v and to_out.0. A step is one instance and one class
sample in one batch: UNet, loss, backward, AdamW. Latents and text embeddings are given. bfloat16 is done as diffusers' own
DreamBooth script does it: frozen weights in bfloat16, LoRA in float32, autocast. Nothing of this project is imported.
"""

import argparse
import json
import platform
import re
import time
from pathlib import Path

start = time.perf_counter()

import diffusers
import peft
import torch
import torch.nn.functional as F


def build(about: dict, dtype: torch.dtype) -> diffusers.UNet2DConditionModel:
    """The UNet of these settings (the fields of gm/config/types.py's UNetConfig and `size_embed_dim`), with random weights."""
    channels = [about["model_channels"] * mult for mult in about["channel_mult"]]
    attends = [2**level in about["attention_resolutions"] for level in range(len(channels))]
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            in_channels=about["in_channels"],
            out_channels=about["out_channels"],
            down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
            up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
            block_out_channels=channels,
            layers_per_block=about["num_res_blocks"],
            transformer_layers_per_block=about["transformer_depth"],
            attention_head_dim=[width // about["num_head_channels"] for width in channels],  # the number of heads, in fact
            cross_attention_dim=about["context_dim"],
            addition_embed_type="text_time",
            addition_time_embed_dim=about["size_embed_dim"],
            projection_class_embeddings_input_dim=about["adm_in_channels"],
            use_linear_projection=True,
        )
    unet = unet.to(dtype).to_empty(device="cpu")
    block = torch.empty(1 << 20).uniform_(-1, 1)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            bound = parameter[0].numel() ** -0.5
            for part in parameter.view(-1).split(block.numel()):
                part.copy_(block[: part.numel()] * bound)
    return unet.requires_grad_(False)


def peak_gb() -> float:
    """Peak resident memory of this process."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9


def train(unet, predict, latent: torch.Tensor, options: argparse.Namespace, result: dict) -> None:
    """The training steps; what is measured goes into `result`."""
    unet.add_adapter(
        peft.LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    )
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    unet.train()
    noise = torch.randn_like(latent)
    result["steps"] = []
    for _ in range(options.steps):
        begun = time.perf_counter()
        loss = F.mse_loss(predict(latent), noise, reduction="none").mean((1, 2, 3)).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        result["steps"].append(time.perf_counter() - begun)
        result.setdefault("launch to first step", time.perf_counter() - start)
    result["trained numbers"] = sum(parameter.numel() for parameter in trained)
    result["loss"] = float(loss.detach())


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unet", required=True, help="JSON of the UNet's settings")
    parser.add_argument("--size", type=int, required=True, help="pixels of the square")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="of training; 0: sampling alone")
    parser.add_argument("--sample-steps", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=1, help="sampled at once; more than one without training")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype, about = getattr(torch, options.dtype), json.loads(options.unet)
    result = {"import": time.perf_counter() - start}

    begun = time.perf_counter()
    unet = build(about, dtype)
    result["build and fill"] = time.perf_counter() - begun

    side, pooled = options.size // 8, about["adm_in_channels"] - 6 * about["size_embed_dim"]
    rows = 2 * options.pictures
    latent = torch.randn(rows, about["in_channels"], side, side)
    context = torch.randn(rows, 77, about["context_dim"])
    added = {
        "text_embeds": torch.randn(rows, pooled),
        "time_ids": torch.tensor([[options.size, options.size, 0, 0] + 2 * [options.size]] * rows).float(),
    }
    timesteps = torch.tensor([500, 300] * options.pictures)
    half = options.dtype != "float32"

    def predict(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype, enabled=half):
            given = {key: value.to(dtype) for key, value in added.items()}
            return unet(x.to(dtype), timesteps, context.to(dtype), added_cond_kwargs=given).sample.float()

    result["sampling"] = []
    for _ in range(options.sample_steps):
        begun = time.perf_counter()
        with torch.no_grad():
            negative, positive = predict(latent).chunk(2)
            guided = negative + 5.0 * (positive - negative)
            latent[: options.pictures].add_(guided, alpha=-0.01)
        result["sampling"].append(time.perf_counter() - begun)

    if options.steps:
        train(unet, predict, latent, options, result)
    result["peak GB"] = peak_gb()
    result["versions"] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "peft": peft.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
