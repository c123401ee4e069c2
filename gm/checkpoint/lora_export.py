"""Writing a LoRA in the layout of another tool, or natively, with what those tools show about a file.

PEFT's and diffusers' layouts cannot hold an alpha: readers take it to be the rank, so B is multiplied by alpha / rank.
kohya's layouts hold an alpha for each module. Where a LoRA has several alphas, diffusers (seen with 0.42.1) loses most of
them; then every module gets the commonest alpha, and its B is multiplied by what is left.

A DoRA's magnitudes (dora.py) are written as they are trained, the lengths of rows, natively and for PEFT. kohya's layouts, whose
DoRA ComfyUI reads, get them in the form that ComfyUI computes exactly: it divides rows by |W|, so they are m |W| / |W + update|,
and metadata says so. Lengths of columns, which other trainers write, fit kohya's layouts alone. Metadata: kohya's `ss_...`, and
the Model Metadata Standard's `modelspec...`.
"""

import datetime
import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Callable, Iterable, Mapping, Optional

import numpy as np

from gm.checkpoint.dora import in_form
from gm.checkpoint.io import Array, Raw, convert, write_tensors
from gm.checkpoint.lora_files import LoraFile
from gm.checkpoint.lora_pair import DORA_FORM
from gm.checkpoint.lora_rules import lora_names, magnitude_name, matrix_names
from gm.checkpoint.peft_settings import ADAPTER_METADATA
from gm.config.types import ModelConfig, UNetConfig
from gm.errors import UserError

BASE_MODEL = "SDXL-base-1.0"
OF_THE_EXPORT = {  # what is written anew for tools that need it; native files say it by other names
    *("ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_base_model_version", "ss_output_name"),
    *("ss_steps", "ss_tag_frequency", "ss_v_parameterization", "ss_zero_terminal_snr"),
}
ReadBase = Callable[[str], np.ndarray]  # native name -> base weight
SGM = "https://github.com/Stability-AI/generative-models"


def write_lora(
    file: LoraFile,
    path: Path,
    layout: str,
    dtype: str = "float32",
    alpha: Optional[float] = None,
    model: Optional[ModelConfig] = None,
    read_base: Optional[ReadBase] = None,
) -> None:
    """Write `file` to `path` as "native" or one of lora_rules.LAYOUTS, all or nothing.

    `dtype`: of the matrices, "float32", "float16" or "bfloat16". `alpha`: where the file does not say it (default: the
    rank). `model`: see lora_files.open_lora. `read_base`: a DoRA needs the base weights on the way into or out of kohya's layouts.
    UserError when a number does not fit into float16, or a module has no name in the layout, or the layout cannot hold a DoRA.
    """
    alphas = {module: file.alpha(module, alpha) for module in file.modules}
    written = _written_alphas(file, layout, alphas)
    forms = _written_forms(file, layout, read_base)
    tensors = _tensors(file, layout, dtype, alphas, written, model)
    tensors |= _magnitudes(file, layout, alpha, forms, model, read_base)
    is_sdxl = _has_sizes_of_sdxl(model) and not file.other_size
    about = _native_metadata(file, written) | prediction_metadata(model, file.metadata)
    if not is_sdxl:
        about.pop("base_model", None)
    if layout != "native":
        about = _metadata(file, path, layout, tensors, about, is_sdxl) | (
            {DORA_FORM: "base"} if "base" in forms.values() else {}
        )
    write_tensors(path, tensors.items(), about)


def prediction_metadata(model: Optional[ModelConfig], known: Mapping[str, str] = {}) -> dict[str, str]:
    """What a LoRA of a model whose output is v says of that, natively; nothing where the output is the noise.

    `known`: the metadata of a LoRA file, which may say it where nobody gives the model.
    """
    is_v = model is not None and model.prediction == "v"
    is_v |= "v" in (known.get("prediction_type"), known.get("modelspec.prediction_type"))
    if not is_v:
        return {}
    terminal = model is not None and model.zero_terminal_snr
    terminal |= "True" in (known.get("zero_terminal_snr"), known.get("ss_zero_terminal_snr"))
    return {"prediction_type": "v", "zero_terminal_snr": str(terminal)}


def _written_alphas(file: LoraFile, layout: str, alphas: Mapping[str, float]) -> dict[str, float]:
    """Native module name -> the alpha that it has in a file of this layout."""
    if _is_diffusers(layout):
        return {module: float(pair.rank) for module, pair in file.modules.items()}
    if layout == "native":
        return dict(alphas)
    commonest = Counter(alpha for alpha in alphas.values() if alpha).most_common(1)  # an alpha of 0 would lose the others
    return dict.fromkeys(alphas, commonest[0][0] if commonest else 0.0)


def _tensors(
    file: LoraFile,
    layout: str,
    dtype: str,
    alphas: Mapping[str, float],
    written: Mapping[str, float],
    model: Optional[ModelConfig],
) -> dict[str, Array]:
    names, tensors = lora_names(model), {}
    needs_alpha = not _is_diffusers(layout) and (layout != "native" or _one(written.values()) is None)
    for module in file.modules:
        try:
            foreign = names.foreign(module, layout)
        except KeyError:
            raise UserError(
                f"the LoRA {file.path} has {module}, which is no linear layer of this model's transformers and in no residual "
                f"block: the {layout} layout has no name for it"
            ) from None
        name_a, name_b = matrix_names(layout, module, foreign)
        a, b = file.read(f"{module}.lora_A.weight"), file.read(f"{module}.lora_B.weight")
        if alphas[module] != written[module]:
            with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at below
                b = b * np.float32(alphas[module] / written[module])
        if needs_alpha:
            tensors[f"{foreign}.alpha"] = np.array(written[module], np.float32)
        tensors[name_a], tensors[name_b] = convert(a, dtype, name_a), convert(b, dtype, name_b)
    return tensors


def _written_forms(file: LoraFile, layout: str, read_base: Optional[ReadBase]) -> dict[str, str]:
    """Native name of every DoRA's module -> the form of its magnitudes in a file of this layout."""
    forms = {module: pair.form for module, pair in file.modules.items() if pair.form}
    if forms and layout == "diffusers":
        raise UserError(f"{file.path} is a DoRA, which the diffusers layout has no name for: write the peft layout, which has")
    own = "base" if layout.startswith("kohya") else "rows"
    if "columns" in forms.values() and own == "rows":
        raise UserError(
            f"{file.path} is a DoRA with the lengths of columns, which the {layout} layout cannot hold: write the kohya layout"
        )
    if set(forms.values()) - {own, "columns"} and read_base is None:
        raise UserError(
            f"{file.path} is a DoRA, whose magnitudes differ between the {layout} layout and its own by the base weights: give "
            "them with --base"
        )
    return {module: form if form == "columns" else own for module, form in forms.items()}


def _magnitudes(
    file: LoraFile,
    layout: str,
    alpha: Optional[float],
    forms: Mapping[str, str],
    model: Optional[ModelConfig],
    read_base: Optional[ReadBase],
) -> dict[str, Array]:
    """The magnitudes of a DoRA by their names in the layout, float32, in its shapes: PEFT has those of a convolution as
    (1, out, 1, 1)."""
    names, tensors = lora_names(model), {}
    for module, form in forms.items():
        pair, values = file.modules[module], file.read(magnitude_name("native", module))
        if form != pair.form:
            weight = read_base(f"{module}.weight")
            if weight.shape != pair.shape:
                raise UserError(
                    f"--base has {module}.weight as {weight.shape}, but {file.path} is for {pair.shape}: give its base"
                )
            values = in_form(weight, file.update(module, alpha), values, pair.form, form)
            values = convert(values, "float32", f"the magnitudes of {module}")
        if layout.startswith("kohya"):
            axes = (1, -1) if form == "columns" else (-1, 1)
            values = values.reshape(axes + tuple(1 for _ in pair.window))
        elif layout == "peft" and pair.window:
            values = values.reshape(1, -1, 1, 1)
        tensors[magnitude_name(layout, names.foreign(module, layout))] = values
    return tensors


def _is_diffusers(layout: str) -> bool:
    """Whether only diffusers reads it."""
    return layout in ("peft", "diffusers")


def _one(values: Iterable):
    """The only value, or None when there are several."""
    different = set(values)
    return different.pop() if len(different) == 1 else None


def _native_metadata(file: LoraFile, alphas: Mapping[str, float]) -> dict[str, str]:
    """What training writes into a LoRA .ckpt, as far as the file says it."""
    given = file.metadata
    about = {
        "lora_rank": _one(pair.rank for pair in file.modules.values()),
        "lora_alpha": _one(alphas.values()),
        "step": given.get("step", given.get("ss_steps")),
        "instance_prompt": given.get("instance_prompt", given.get("modelspec.trigger_phrase")),
        "base_model": given.get("base_model", given.get("ss_base_model_version")),
    }
    recipe = {key: text for key, text in given.items() if key.startswith(("ss_", "recipe_")) and key not in OF_THE_EXPORT}
    return {**recipe, **{key: str(value) for key, value in about.items() if value is not None}}


def _has_sizes_of_sdxl(model: Optional[ModelConfig]) -> bool:
    """Whether tools that know SDXL by its name can take the model for it: its UNet and text encoders are as wide and deep."""
    if model is None:
        return True
    unet, usual = model.unet, UNetConfig()
    sizes = ("model_channels", "channel_mult", "num_res_blocks", "attention_resolutions", "transformer_depth", "context_dim")
    text = [(encoder.width, encoder.layers) for encoder in model.text_encoders]
    return all(getattr(unet, of) == getattr(usual, of) for of in sizes) and text == [(768, 12), (1280, 32)]


def _metadata(
    file: LoraFile, path: Path, layout: str, tensors: Mapping[str, Array], native: Mapping[str, str], is_sdxl: bool
) -> dict[str, str]:
    """What the file already says about itself, with what is true of the new one. A model of other sizes gets no name: none fits,
    and readers go by it."""
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(tensor.content if isinstance(tensor, Raw) else np.ascontiguousarray(tensor).tobytes())
    dropped = ("lora_rank", "lora_alpha", "sshs_legacy_hash", ADAPTER_METADATA, DORA_FORM)
    about = {key: text for key, text in file.metadata.items() if key not in dropped}
    about |= {
        "ss_network_module": "networks.lora",
        "ss_network_dim": native.get("lora_rank", "Dynamic"),
        "ss_network_alpha": native.get("lora_alpha", "Dynamic"),
        "ss_output_name": path.stem,
        "lora_targets": ",".join(targets(file)),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "diffusers" if _is_diffusers(layout) else SGM,
        "modelspec.title": path.stem,
        "modelspec.date": datetime.datetime.now().replace(microsecond=0).isoformat(),
        "modelspec.resolution": about.get("modelspec.resolution", _resolution(about)),
        "modelspec.prediction_type": native.get("prediction_type", "epsilon"),
        "modelspec.hash_sha256": "0x" + digest.hexdigest(),
        "sshs_model_hash": digest.hexdigest(),
    }
    named = {
        "ss_base_model_version": "sdxl_base_v1-0",
        "base_model": native.get("base_model", BASE_MODEL),
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    }
    about = about | named if is_sdxl else {key: text for key, text in about.items() if key not in named}
    if "prediction_type" in native:
        about |= {"ss_v_parameterization": "True", "ss_zero_terminal_snr": native["zero_terminal_snr"]}
    ranks = {pair.rank for pair in file.modules.values() if any(side > 1 for side in pair.window)}
    if ranks:  # as sd-scripts tells a LoRA with convolutions
        about["ss_network_args"] = json.dumps(
            {"conv_dim": str(_one(ranks) or "Dynamic"), "conv_alpha": about["ss_network_alpha"]}
        )
    if "step" in native:
        about["ss_steps"] = native["step"]
    if "instance_prompt" in native:
        about["modelspec.trigger_phrase"] = native["instance_prompt"]
        about.setdefault("ss_tag_frequency", json.dumps({"instance": {native["instance_prompt"]: 1}}))
    return about


def _resolution(about: Mapping[str, str]) -> str:
    """Of the photos that were trained on, "width x height"; SDXL's where the file does not say it."""
    sides = re.findall(r"\d+", about.get("ss_resolution", ""))
    return f"{sides[0]}x{sides[-1]}" if sides else "1024x1024"


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
