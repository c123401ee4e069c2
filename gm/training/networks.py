"""The networks of a run, built and filled with what training starts from; and the trainer around them."""

from dataclasses import asdict
from pathlib import Path
from typing import Mapping, Optional

import numpy as np
from mindspore import nn

from gm.console import Hold, log, never, waiting
from gm.data.buckets import Size
from gm.encoding.text import TextEmbedding
from gm.graph_cache import graph_folder
from gm.models import sdxl
from gm.models.conditioner import TextEncoders, context_length, tokenize
from gm.models.text_products import widen
from gm.models.tokenizer import CHUNK
from gm.models.unet import UNet
from gm.models.vae import VAE
from gm.optimizers.table import unusual_rate
from gm.training.batches import MicroBatch
from gm.training.inputs import Inputs
from gm.training.setting import Setting
from gm.training.step import LossScale, Trainer

FEW_PROMPTS = 4  # up to so many, the products of the text (52 MB a prompt in SDXL) pay


def uses_text_products(inputs: Inputs) -> bool:
    """Whether the products of the text with the frozen `to_k` and `to_v` are computed once a prompt."""
    wanted = inputs.options.cache_text_products
    if inputs.config.trains_text_encoders or inputs.config.lora["unet"].kind == "dora":  # which needs those weights
        return False
    return len(inputs.texts) <= FEW_PROMPTS if wanted is None else wanted


def load_unet(setting: Setting, hold: Hold = never) -> UNet:
    """The UNet that is trained."""
    inputs = setting.inputs
    with setting.timings("building the UNet"):
        unet = sdxl.build_unet(
            inputs.config.model, setting.machine.dtype, setting.weights.adapters, uses_text_products(inputs)
        )
    with setting.timings("loading the UNet"):
        return _fill(setting, unet, "the UNet", hold)


def load_plain_unet(setting: Setting) -> UNet:
    """The base model's UNet, without LoRA, that samples class images where the trained one cannot."""
    unet = sdxl.build_unet(setting.inputs.class_config.model, setting.machine.dtype)
    return sdxl.load(unet, setting.weights.base.read, "UNet")


def load_text_encoders(setting: Setting, hold: Hold = never) -> TextEncoders:
    """The text encoders that are trained."""
    cell = sdxl.build_text_encoders(setting.inputs.config.model, setting.machine.dtype, setting.weights.adapters)
    return _fill(setting, cell, "the text encoders", hold)


def load_vae(setting: Setting) -> VAE:
    return sdxl.load(sdxl.build_vae(setting.inputs.config.model), setting.weights.base.read, "VAE")


def _fill(setting: Setting, cell: nn.Cell, what: str, hold: Hold) -> nn.Cell:
    with waiting(f"loading {what}", hold):
        sdxl.fill([cell], setting.weights.read)
    return cell


def widened(setting: Setting, unet: UNet, texts: Mapping[str, TextEmbedding]) -> dict[str, TextEmbedding]:
    """The embedded prompts as the UNet takes them: with their products, where it uses those."""
    if not uses_text_products(setting.inputs) or not texts:
        return dict(texts)
    with setting.timings("prompts"):
        contexts = np.stack([text.context for text in texts.values()])
        contexts = widen(unet.text_products, contexts, setting.weights.base.read)
    return {prompt: TextEmbedding(context, text.pooled) for (prompt, text), context in zip(texts.items(), contexts)}


def make_trainer(setting: Setting, unet: UNet, text_encoders: Optional[TextEncoders], with_class: bool) -> Trainer:
    """The trainer of these networks; `text_encoders` is given where their LoRA trains."""
    options, weights = setting.inputs.options, setting.weights
    dynamic = options.loss_scale_type == "dynamic"
    half = setting.machine.amp_level == "O2"
    scale = options.loss_scale or ((65536.0 if dynamic else 1024.0) if half else 1.0)
    trainer = Trainer(
        config=setting.inputs.config,
        unet=unet,
        text_encoders=text_encoders,
        loss_scale=LossScale(scale, dynamic, options.loss_scale_window),
        max_grad_norm=options.max_grad_norm if options.clip_grad else None,
        overflow_still_update=options.overflow_still_update,
        ranks=setting.ranks,
        graph_folder=_graph_folder(setting, with_class),
        read=weights.read,
        prior_unet=_prior_unet(setting, unet),
    )
    unusual = unusual_rate(setting.inputs.config.optim, trainer.rates.highest)
    if unusual:
        log.warning("%s", unusual)
    if weights.state is not None:
        trainer.set_state(weights.state)
        log.info("resuming after step %d", trainer.step)
    return trainer


def _prior_unet(setting: Setting, unet: UNet) -> Optional[UNet]:
    """A UNet without LoRA that has the weights of this one, in the same memory, where the loss asks what it predicts."""
    masks = setting.inputs.config.data.masks
    if masks is None or not masks.prior_weight:
        return None
    plain = sdxl.build_unet(
        setting.inputs.config.model, setting.machine.dtype, text_products=uses_text_products(setting.inputs)
    )
    return sdxl.share_parameters(plain, unet)


def blank_batches(setting: Setting, unet: UNet, with_class: bool) -> list[MicroBatch]:
    """A micro-batch of each of the shapes that the run has, in one order for all runs with these shapes."""
    return [_blank_batch(setting, unet, with_class, size) for size in setting.inputs.buckets.shapes]


def _blank_batch(setting: Setting, unet: UNet, with_class: bool, size: Size) -> MicroBatch:
    model, data = setting.inputs.config.model, setting.inputs.config.data
    rows = data.per_batch_size * (2 if with_class else 1)
    if setting.inputs.config.trains_text_encoders:
        text = tokenize([""] * rows, data.max_tokens)
    else:
        context = np.zeros((rows, context_length(data.max_tokens), unet.context_width), np.float32)
        text = context, np.zeros((rows, model.pooled_dim), np.float32)
    return MicroBatch.blank((rows, model.unet.in_channels, size[0] // 8, size[1] // 8), text, setting.inputs.config)


def _graph_folder(setting: Setting, with_class: bool) -> Optional[Path]:
    """Where the training graphs are kept: by all that decides them."""
    options, config = setting.inputs.options, setting.inputs.config
    if not options.compile_cache_dir:
        return None
    decides = {
        "model": asdict(config.model),
        "adapters": {name: asdict(adapter) for name, adapter in setting.weights.adapters.items()},
        "text products": uses_text_products(setting.inputs),
        "optim": asdict(config.optim),
        "loss": asdict(config.loss),
        "perturbs input": bool(config.noise.input_perturbation),
        "masks": asdict(config.data.masks) if config.data.masks else None,
        "machine": asdict(setting.machine),
        "shapes": setting.inputs.buckets.shapes,
        "rows": config.data.per_batch_size,
        "class": with_class,
        "ranks": setting.ranks.size,
        "accumulates": options.gradient_accumulation_steps > 1,  # a window's first gradient has a graph of its own
    }
    if config.data.max_tokens != CHUNK:
        decides["tokens"] = config.data.max_tokens
    folder = graph_folder(Path(options.compile_cache_dir), decides)
    if folder.exists():
        log.info("compiled graphs are in %s", folder)
    return folder
