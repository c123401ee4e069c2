"""Names of sd-scripts for what this suite calls otherwise, and flags that it has nothing for."""

from typing import Any, Mapping, Optional

HEAD = (
    "A run of this suite for sd-scripts' sdxl_train_network.py; the photos are in the file beside this one, _dataset.toml.",
    "The order of the photos, crops and noise are drawn by other generators: losses agree on average, not number by number.",
)
SDXL_SIDE = 32  # pixels
BUCKETS = {"min_bucket_reso": "smallest", "max_bucket_reso": "largest", "bucket_reso_steps": "step"}
INTERPOLATION = ("nearest", "lanczos", "bilinear", "bicubic", "box", "area")  # by Pillow's number
SCHEDULES = {
    "constant": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_restarts": "cosine_with_restarts",
    "polynomial": "polynomial",
}
LOSSES: Mapping[tuple[str, bool], Optional[str]] = {  # weighting, whether v is predicted -> a switch; "": none is needed
    ("EpsWeighting", False): "",
    ("EpsWeighting", True): "scale_v_pred_loss_like_noise_pred",
    ("VWeighting", True): "",
    ("MinSNRWeighting", False): "min_snr_gamma",
    ("MinSNRWeighting", True): "min_snr_gamma",
    ("DebiasedWeighting", False): "debiased_estimation_loss",
    ("DebiasedWeighting", True): "debiased_estimation_loss",
}
EARLIER_ADAM = "mindspore.nn.AdamWeightDecay has no bias correction, torch's AdamW has: the first updates are larger here"
OF_OPTIONS: Mapping[str, tuple[Any, str]] = {  # flag -> its default, and what is said of any other
    "save_every_minutes": (None, "save_every_minutes: sd-scripts saves by updates or epochs alone"),
    "save_path_with_time": (False, "save_path_with_time: files go to output_dir itself"),
    "overflow_still_update": (False, "overflow_still_update: sd-scripts leaves such updates out"),
    "loss_scale": (None, "loss_scale: torch's GradScaler begins at 65536 and adapts"),
    "generate_class_image_config": (None, "generate_class_image_config: sd-scripts makes no class images"),
}
