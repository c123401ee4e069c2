"""The values of the `data` section of a YAML -> DataConfig."""

from typing import Any, Mapping

from gm.config import table as t
from gm.config.types import DataConfig, ModelConfig
from gm.errors import UserError, require_multiple


def read_data(values: Mapping[str, Any], model: ModelConfig, path: str) -> DataConfig:
    """The photos of a run and how many steps it has."""
    params = values["dataset_config"]["params"]
    size = params["target_size"]
    require_multiple(f"--config {path}: target_size", size, model.unet.downsampling)
    resize, crop = {"size": size, "interpolation": 3}, {"crop": "random"}
    if params["transforms"] is not None:
        order = [transform["target"] for transform in params["transforms"]]
        if order != [t.RESIZE, t.RESCALE, t.CROP, t.TRANSPOSE]:
            raise UserError(f"--config {path}: transforms must be Resize, Rescaler, {t.CROP.rpartition('.')[2]}, Transpose")
        resize, crop = params["transforms"][0]["params"], params["transforms"][2]["params"]
    if resize["size"] != size:
        raise UserError(f"--config {path}: Resize size is {resize['size']}, but target_size is {size}: make them equal")
    return DataConfig(
        per_batch_size=values["per_batch_size"],
        total_step=values["total_step"],
        num_parallel_workers=values["num_parallel_workers"],
        shuffle=values["shuffle"],
        target_size=size,
        interpolation=resize["interpolation"],
        crop=crop["crop"],
        max_tokens=params["max_tokens"],
    )
