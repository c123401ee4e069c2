"""The values of the `data` section of a YAML -> DataConfig."""

from typing import Any, Mapping, Optional

from gm.config import table as t
from gm.config.types import BucketConfig, CaptionConfig, ConceptConfig, DataConfig, LoraConfig, MaskConfig, ModelConfig
from gm.errors import UserError, require_multiple, shown


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
        captions=_captions(params["captions"], path),
        buckets=_buckets(params["buckets"], size, model.unet.downsampling, path),
        masks=_masks(params["masks"], path),
        concepts=tuple(_concept(concept, path) for concept in params["concepts"] or ()),
        max_tokens=params["max_tokens"],
    )


def _captions(values: Optional[Mapping[str, Any]], path: str) -> CaptionConfig:
    if values is None:
        return CaptionConfig()
    for key in ("tag_dropout", "dropout"):
        if values[key] > 1:
            raise UserError(f"--config {path}: captions.{key} is {values[key]:g}, but a probability is at most 1")
    if values["keep_tokens"] and values["keep_tokens_separator"]:
        raise UserError(
            f"--config {path}: captions has both keep_tokens and keep_tokens_separator: give a number of tags or what parts them"
        )
    if not values["separator"].strip():
        raise UserError(f"--config {path}: captions.separator is empty: give what stands between tags, e.g. ','")
    wrong = [ending for ending in values["extensions"] if not ending.startswith(".") or len(ending) < 2 or "/" in ending]
    if wrong:
        raise UserError(f"--config {path}: captions.extensions has {shown(wrong[0])}: an extension is like '.txt'")
    return CaptionConfig(**{**values, "extensions": tuple(values["extensions"])})


def _buckets(values: Optional[Mapping[str, Any]], side: int, multiple: int, path: str) -> Optional[BucketConfig]:
    """sd-scripts' bounds for 1024 pixels, 64, 256 and 2048, in proportion to `side`."""
    if values is None:
        return None
    step = values["bucket_reso_steps"] or max(multiple, side // 16 // multiple * multiple)
    smallest = values["min_bucket_reso"] or max(step, side // 4 // step * step)
    largest = values["max_bucket_reso"] or 2 * side
    where = f"--config {path}: buckets."
    require_multiple(where + "bucket_reso_steps", step, multiple)
    require_multiple(where + "min_bucket_reso", smallest, step)
    if not smallest <= side <= largest:
        raise UserError(
            f"{where}min_bucket_reso is {smallest} and max_bucket_reso {largest}, but target_size {side} must lie between them"
        )
    return BucketConfig(
        max_buckets=values["max_buckets"],
        step=step,
        smallest=smallest,
        largest=largest,
        upscale=not values["bucket_no_upscale"],
    )


def _masks(values: Optional[Mapping[str, Any]], path: str) -> Optional[MaskConfig]:
    if values is None:
        return None
    if values["unmasked_weight"] > 1:
        raise UserError(
            f"--config {path}: masks.unmasked_weight is {values['unmasked_weight']:g}, but what is masked out counts at most 1"
        )
    return MaskConfig(**values)


def _concept(values: Mapping[str, Any], path: str) -> ConceptConfig:
    if values["class_prompt"] is not None and values["class_data_path"] is None:
        raise UserError(
            f"--config {path}: the concept of {values['instance_data_path']} has a class_prompt, but no class_data_path: give the "
            "folder of its class images"
        )
    return ConceptConfig(**values)


def require_frozen_text(masks: Optional[MaskConfig], lora: Mapping[str, LoraConfig], path: str) -> None:
    """UserError for a prior of masks where text encoders train, whose prediction without LoRA would need both of them twice."""
    if masks is not None and masks.prior_weight and any(network != "unet" for network in lora):
        raise UserError(
            f"--config {path}: the masks' prior_weight is {masks.prior_weight:g}, but the text encoders train, and with their "
            "LoRA the prediction without LoRA is not computed: set prior_weight to 0, or train the UNet alone"
        )
