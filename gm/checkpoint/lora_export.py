"""Writing a LoRA in the layout of another tool, or natively, with what those tools show about a file.

`kohya` layouts carry alpha as a tensor a module. PEFT's and diffusers' have none and are read as alpha = rank, so B is
multiplied by alpha / rank there. Metadata: kohya's `ss_...`, and the Model Metadata Standard's `modelspec...`.
"""

import datetime
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Mapping, Optional

import numpy as np

from gm.checkpoint.io import Array, Raw, convert, write_tensors
from gm.checkpoint.lora_files import ADAPTER_METADATA, LoraFile
from gm.checkpoint.lora_rules import lora_names, matrix_names
from gm.config import ModelConfig
from gm.errors import UserError

BASE_MODEL = "SDXL-base-1.0"


def write_lora(
    file: LoraFile,
    path: Path,
    layout: str,
    dtype: str = "float32",
    alpha: Optional[float] = None,
    model: Optional[ModelConfig] = None,
) -> None:
    """Write `file` to `path` as "native" or one of lora_rules.LAYOUTS, all or nothing.

    `dtype`: of the matrices, "float32", "float16" or "bfloat16". `alpha`: where the file does not say it (default: the
    rank). `model`: see lora_files.open_lora. UserError when a number does not fit into float16, or a
    module has no name in the layout.
    """
    tensors = _tensors(file, layout, dtype, alpha, model)
    about = _native_metadata(file, alpha) if layout == "native" else _metadata(file, path, layout, tensors, alpha)
    write_tensors(path, tensors.items(), about)


def _tensors(
    file: LoraFile, layout: str, dtype: str, alpha: Optional[float], model: Optional[ModelConfig]
) -> dict[str, Array]:
    names, tensors = lora_names(model), {}
    same_alpha = _one({file.alpha(module, alpha) for module in file.modules}) is not None
    for module in file.modules:
        try:
            foreign = names.foreign(module, layout)
        except KeyError:
            raise UserError(
                f"the LoRA {file.path} has {module}, which is no linear layer of this model's transformers: the {layout} "
                "layout has no name for it"
            ) from None
        name_a, name_b = matrix_names(layout, module, foreign)
        a, b = file.read(f"{module}.lora_A.weight"), file.read(f"{module}.lora_B.weight")
        if _folds_alpha(layout):
            b = b * np.float32(file.scale(module, alpha))
        elif layout != "native" or not same_alpha:
            tensors[f"{foreign}.alpha"] = np.array(file.alpha(module, alpha), np.float32)
        tensors[name_a], tensors[name_b] = convert(a, dtype), convert(b, dtype)
    return tensors


def _folds_alpha(layout: str) -> bool:
    return layout in ("peft", "diffusers")


def _one(values: set):
    """The only value, or None."""
    return next(iter(values)) if len(values) == 1 else None


def _native_metadata(file: LoraFile, alpha: Optional[float]) -> dict[str, str]:
    """What training writes into a LoRA .ckpt, as far as the file says it."""
    given = file.metadata
    steps, prompt = given.get("ss_steps"), given.get("modelspec.trigger_phrase")
    about = {
        "lora_rank": _one({pair.rank for pair in file.modules.values()}),
        "lora_alpha": _one({file.alpha(module, alpha) for module in file.modules}),
        "step": given.get("step", steps),
        "instance_prompt": given.get("instance_prompt", prompt),
        "base_model": given.get("base_model", given.get("ss_base_model_version")),
    }
    return {key: str(value) for key, value in about.items() if value is not None}


def _metadata(
    file: LoraFile, path: Path, layout: str, tensors: Mapping[str, Array], alpha: Optional[float]
) -> dict[str, str]:
    """What the file already says about itself, with what is true of the new one."""
    native = _native_metadata(file, alpha)
    rank = _one({pair.rank for pair in file.modules.values()})
    alphas = {float(pair.rank) if _folds_alpha(layout) else file.alpha(module, alpha) for module, pair in file.modules.items()}
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(tensor.content if isinstance(tensor, Raw) else np.ascontiguousarray(tensor).tobytes())
    about = {key: text for key, text in file.metadata.items() if key not in ("lora_rank", "lora_alpha", ADAPTER_METADATA)}
    about |= {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "Dynamic" if rank is None else str(rank),
        "ss_network_alpha": "Dynamic" if _one(alphas) is None else str(_one(alphas)),
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_output_name": path.stem,
        "lora_targets": ",".join(targets(file)),
        "base_model": native.get("base_model", BASE_MODEL),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "diffusers" if _folds_alpha(layout) else "https://github.com/Stability-AI/generative-models",
        "modelspec.title": path.stem,
        "modelspec.date": datetime.datetime.now().replace(microsecond=0).isoformat(),
        "modelspec.resolution": about.get("modelspec.resolution", "1024x1024"),
        "modelspec.prediction_type": "epsilon",
        "modelspec.hash_sha256": "0x" + digest.hexdigest(),
        "sshs_model_hash": digest.hexdigest(),
    }
    about.pop("sshs_legacy_hash", None)
    if "step" in native:
        about["ss_steps"] = native["step"]
    if "instance_prompt" in native:
        about["modelspec.trigger_phrase"] = native["instance_prompt"]
        about.setdefault("ss_tag_frequency", json.dumps({"instance": {native["instance_prompt"]: 1}}))
    return about


def targets(file: LoraFile) -> list[str]:
    """The kinds of layer that have LoRA, e.g. to_q or net.0.proj, the commonest first."""
    kinds = Counter(kind_of_layer(module) for module in file.modules)
    return [kind for kind, _ in kinds.most_common()]


def kind_of_layer(module: str) -> str:
    """The last part of a module's name, with the numbers of a list and what is in them: to_out.0, net.0.proj."""
    parts = module.split(".")
    start = len(parts) - 1
    while start > 0 and (parts[start].isdigit() or parts[start - 1].isdigit() and parts[start - 2] == "net"):
        start -= 1
    return ".".join(parts[start:])
