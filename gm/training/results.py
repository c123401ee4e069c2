"""What a run writes beside its metrics: LoRA files and the state to resume with; and what to do with them."""

import json
from pathlib import Path
from typing import Mapping

from gm.checkpoint.io import write_tensors
from gm.checkpoint.lora_export import prediction_metadata, write_lora
from gm.checkpoint.lora_files import lora_in_base, save_lora
from gm.checkpoint.weights import open_base, split_weight_argument, stream_whole
from gm.evaluation.chooser import Choice
from gm.models.adapters import lora_facts
from gm.options.sample import sampling_command
from gm.training.checkpoints import SaveSettings
from gm.training.identity import IDENTITY, Identity
from gm.training.metadata import Facts, metadata
from gm.training.resume import STATE
from gm.training.setting import Setting
from gm.training.state_file import STATE_FILE
from gm.training.step import Trainer


def save(setting: Setting, trainer: Trainer, facts: Facts, identity: Identity, path: Path, step: int) -> None:
    """The LoRA file (or base + LoRA), for other tools as well if asked for, and beside it, last, what --resume needs."""
    options, config = setting.inputs.options, setting.inputs.config
    _, alphas = lora_facts(setting.weights.adapters)
    matrices = trainer.lora() | alphas
    settings = config.lora["unet"]
    of_lora, of_state = what_files_say(setting, facts, identity, step)
    if settings.only_save_lora:
        save_lora(path, matrices, of_lora)
    else:
        write_tensors(path, stream_whole(setting.weights.base, matrices), metadata=of_lora)
    if options.save_format:
        with lora_in_base(open_base(path)) as written:
            target = path.with_suffix(".safetensors")
            write_lora(written, target, options.save_format, model=config.model, read_base=setting.weights.base.read)
    state = trainer.matrices() | alphas | {STATE + key: value for key, value in trainer.state().items()}
    write_tensors(path.parent / STATE_FILE, state.items(), metadata=of_state, checksum=True)


def what_files_say(setting: Setting, facts: Facts, identity: Identity, step: int) -> tuple[dict[str, str], dict[str, str]]:
    """The metadata of the LoRA file and of the training state."""
    config = setting.inputs.config
    about = {
        **lora_facts(setting.weights.adapters)[0],
        "step": str(step),
        "instance_prompt": setting.inputs.prompt,
        "base_model": config.version,
        **prediction_metadata(config.model),
    }
    of_state = about | {IDENTITY: json.dumps(identity, sort_keys=True)}
    return writable(metadata(facts, step) | about), writable(of_state)


def writable(texts: Mapping[str, str]) -> dict[str, str]:
    """The texts as UTF-8 can hold them: of names of files, which may have any bytes, those that are none are written out."""
    return {key: text.encode("utf-8", "backslashreplace").decode() for key, text in texts.items()}


def nothing_left(setting: Setting) -> str:
    """What is said where the state to resume with has all updates of the run behind it."""
    inputs, step = setting.inputs, setting.weights.step
    state = Path(inputs.options.resume or "")
    name = SaveSettings.name.format(step=step)
    lora = next((folder / name for folder in (inputs.folder, state.parent) if (folder / name).exists()), None)
    has = f"its LoRA is {lora}" if lora else f"{name} is not beside it any more"
    return (
        f"nothing is left to train: {state} has {step} updates behind it and data.total_step is {inputs.config.data.total_step}; {has}, "
        f"and --set data.total_step=N with more than {step} goes on"
    )


def chosen_in_words(setting: Setting, choice: Choice) -> str:
    """The checkpoint to take, why, and the command that samples from it."""
    lora = setting.inputs.folder / SaveSettings.name.format(step=choice.step)
    return (
        f"the checkpoint to take is {lora}, score {choice.score:.2f}: {choice.reason}\n"
        f"sample from it:\n{next_command(setting, lora)}"
    )


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
    return sampling_command(flags)
