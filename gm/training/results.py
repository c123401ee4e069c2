"""What a run writes beside its metrics: LoRA files, the state to resume with, progress pictures."""

import shlex
from pathlib import Path
from typing import Callable, Mapping, Optional

from gm.checkpoint.io import write_tensors
from gm.checkpoint.lora_export import write_lora
from gm.checkpoint.lora_files import lora_in_base, save_lora
from gm.checkpoint.weights import open_base, split_weight_argument, stream_whole
from gm.config.types import SampleSettings
from gm.encoding.text import TextEmbedder, TextEmbedding, unconditional
from gm.models.adapters import lora_facts
from gm.models.conditioner import TextEncoders
from gm.models.unet import UNet
from gm.models.vae import VAE
from gm.pictures import contact_sheet, save_png
from gm.sampling.pictures import PictureSampler
from gm.training.setting import Setting
from gm.training.step import Trainer
from gm.training.weights import STATE, STATE_FILE


def save(setting: Setting, trainer: Trainer, path: Path, step: int) -> None:
    """The LoRA file (or base + LoRA), for other tools as well if asked for, and beside it what --resume needs."""
    options, config = setting.inputs.options, setting.inputs.config
    facts, alphas = lora_facts(setting.weights.adapters)
    matrices = trainer.lora() | alphas
    settings = config.lora["unet"]
    about = {
        **facts,
        "step": str(step),
        "instance_prompt": options.instance_prompt,
        "base_model": config.version,
    }
    if settings.only_save_lora:
        save_lora(path, matrices, about)
    else:
        write_tensors(path, stream_whole(setting.weights.base, matrices), metadata=about)
    if options.save_format:
        with lora_in_base(open_base(path)) as written:
            write_lora(
                written,
                path.with_suffix(".safetensors"),
                options.save_format,
                model=config.model,
                read_base=setting.weights.base.read,
            )
    state = matrices | {STATE + key: value for key, value in trainer.state().items()}
    write_tensors(path.parent / STATE_FILE, state.items(), metadata=about)


def progress_pictures(
    setting: Setting,
    unet: UNet,
    vae: VAE,
    text_encoders: Optional[TextEncoders],
    texts: Mapping[str, TextEmbedding],
) -> Callable[[int], None]:
    """A function that samples the progress prompt with fixed seeds into <folder>/progress/step_<n>.png.

    The prompt is embedded by `text_encoders` where those train, and is one of `texts` otherwise.
    """
    options, folder = setting.inputs.options, setting.inputs.folder
    sampler = PictureSampler(unet, vae, setting.inputs.config.model)
    settings = SampleSettings.square(setting.inputs.config.data.target_size, options.sample_step)
    prompt = setting.inputs.infer_prompt
    embed = TextEmbedder(text_encoders) if text_encoders is not None else None

    def infer(step: int) -> None:
        text = embed([prompt])[prompt] if embed else texts[prompt]
        seeds = [options.seed + i for i in range(options.sample_batch_size)]
        pictures = sampler(text, unconditional(text), settings, seeds, f"pictures after step {step}")
        about = {"prompt": prompt, "seeds": seeds, "step": step, "steps": settings.steps}
        save_png(folder / "progress" / f"step_{step}.png", contact_sheet([pictures], [f"step {step}: {prompt}"]), about)

    return infer


def next_command(setting: Setting, lora: Path) -> str:
    """The command that samples from what was trained."""
    inputs, options = setting.inputs, setting.inputs.options
    has_base = not inputs.config.lora["unet"].only_save_lora
    size = inputs.config.data.target_size
    flags = {
        "--config": inputs.folder / "config.yaml",
        "--weight": lora if has_base else f"{split_weight_argument(options.weight)[0]},{lora}",
        "--vae": options.vae,
        "--prompt": options.instance_prompt,
        "--height": size,
        "--width": size,
        "--device_target": setting.machine.device,
    }
    words = [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    return shlex.join(["python", "demo/sampling_without_streamlit.py", "--task", "txt2img", *words])
