"""What a run writes beside its metrics: LoRA files and the state to resume with; and what to do with them."""

import shlex
from pathlib import Path

from gm.checkpoint.io import write_tensors
from gm.checkpoint.lora_export import prediction_metadata, write_lora
from gm.checkpoint.lora_files import lora_in_base, save_lora
from gm.checkpoint.weights import open_base, split_weight_argument, stream_whole
from gm.models.adapters import lora_facts
from gm.training.metadata import Facts, metadata
from gm.training.setting import Setting
from gm.training.step import Trainer
from gm.training.weights import STATE, STATE_FILE


def save(setting: Setting, trainer: Trainer, facts: Facts, path: Path, step: int) -> None:
    """The LoRA file (or base + LoRA), for other tools as well if asked for, and beside it what --resume needs."""
    options, config = setting.inputs.options, setting.inputs.config
    about_lora, alphas = lora_facts(setting.weights.adapters)
    matrices = trainer.lora() | alphas
    settings = config.lora["unet"]
    about = {
        **about_lora,
        "step": str(step),
        "instance_prompt": setting.inputs.prompt,
        "base_model": config.version,
        **prediction_metadata(config.model),
    }
    of_lora = metadata(facts, step) | about
    if settings.only_save_lora:
        save_lora(path, matrices, of_lora)
    else:
        write_tensors(path, stream_whole(setting.weights.base, matrices), metadata=of_lora)
    if options.save_format:
        with lora_in_base(open_base(path)) as written:
            target = path.with_suffix(".safetensors")
            write_lora(written, target, options.save_format, model=config.model, read_base=setting.weights.base.read)
    state = trainer.matrices() | alphas | {STATE + key: value for key, value in trainer.state().items()}
    write_tensors(path.parent / STATE_FILE, state.items(), metadata=about)


def next_command(setting: Setting, lora: Path) -> str:
    """The command that samples from what was trained."""
    inputs, options = setting.inputs, setting.inputs.options
    has_base = not inputs.config.lora["unet"].only_save_lora
    size = inputs.config.data.target_size
    flags = {
        "--config": inputs.folder / "config.yaml",
        "--weight": lora if has_base else f"{split_weight_argument(options.weight)[0]},{lora}",
        "--vae": options.vae,
        "--prompt": inputs.prompt,
        "--height": size,
        "--width": size,
        "--device_target": setting.machine.device,
    }
    words = [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    return shlex.join(["python", "demo/sampling_without_streamlit.py", "--task", "txt2img", *words])
