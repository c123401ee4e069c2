"""YAML + --set -> a checked gm.config.types.Config. What may stand in a YAML is table.py; files are tree.py, their text
yaml_text.py, --set overrides.py, ${...} references.py.

All problems of types and names are collected and reported in one UserError (check.py); what fits together is checked after
(model.py, lora.py, optim.py, data.py).
"""

from typing import Optional, Sequence

from omegaconf import OmegaConf

from gm.config import table as t
from gm.config.check import checked
from gm.config.data import read_data, require_frozen_text
from gm.config.lora import read_lora
from gm.config.model import read_loss, read_model, read_noise, read_weighting
from gm.config.optim import read_optim, trained_networks
from gm.config.tree import read_tree
from gm.config.types import Config
from gm.errors import UserError

SHOWN = 10  # problems in a message


def load_config(
    path: str,
    overrides: Sequence[str] = (),
    training: bool = True,
    version: Optional[str] = None,
    inpainting: bool = False,
) -> Config:
    """Read, override, check. `training` demands the sections optim and data and a LoRA to train; `version`, the YAML's;
    `inpainting` lets the UNet see a mask and what is left of a picture.

    Raises UserError naming the key, what was given and what is accepted.
    """
    tree = read_tree(path, overrides)
    problems: list[str] = []
    values = checked(tree, t.ROOT, "", problems)
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(f"--config {path}: " + "; ".join(problems[:SHOWN]) + more)
    model = read_model(values["model"]["params"], path, inpainting)
    own = t.REFINER_VERSION if model.is_refiner else t.BASE_VERSION
    if values["version"] not in (None, own):
        raise UserError(f"--config {path} has the version {values['version']}, but the emb_models of {own}: make them equal")
    if version is not None and version != own:
        raise UserError(f"--version {version} was given, but --config {path} is of {own}: make them equal")
    if training and model.is_refiner:
        raise UserError(
            f"--config {path} is of {own}, which this suite samples from and does not train: give a YAML of the base"
        )
    if training and model.prediction == "x0":
        raise UserError(
            f"--config {path} has X0Scaling, of weights distilled to one step, which are sampled from and not trained: give "
            f"scaling_config the target {t.EPS_SCALING}"
        )
    lora = read_lora(values["model"]["params"], path)
    optim = read_optim(values["optim"], lora, path) if values["optim"] else None
    lora = trained_networks(lora, optim)
    data = read_data(values["data"], model, path) if values["data"] else None
    if training:
        for section, found in (("optim", optim), ("data", data)):
            if found is None:
                raise UserError(f"--config {path} has no section {section!r}: training needs it, give a training YAML")
        if "unet" not in lora:
            raise UserError(
                f"--config {path} trains nothing: this suite trains LoRA, so network_config must have the target {t.UNET_LORA}"
            )
    require_frozen_text(data.masks if data else None, lora, path)
    return Config(
        version=own,
        model=model,
        lora=lora,
        optim=optim,
        data=data,
        raw=OmegaConf.to_yaml(OmegaConf.create(tree)),
        weighting=read_weighting(values["model"]["params"]["denoiser_config"]["params"]["weighting_config"]),
        noise=read_noise(values["model"]["params"], path),
        loss=read_loss(values["model"]["params"]),
    )
