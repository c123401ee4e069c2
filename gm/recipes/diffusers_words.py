"""Arguments of diffusers' training scripts that need no arithmetic: name -> what became of it, in words."""

from typing import Mapping

from gm.recipes.draft import DIFFERS, TAKEN, UNSUPPORTED

_NONE = "no effect on the result"
_NO_HUB = "nothing is sent anywhere: copy the files of --save_path"
_LOGS = "metrics.jsonl, loss.png and the log, always"
_FAST = "MindSpore chooses how attention is computed; fused attention is spatial_transformer_attn_type of the 910B's YAML"
_PIVOTAL = "no new words are learned (pivotal tuning): LoRA in the UNet alone; --train_text_encoder is what comes nearest"
_HUB_DATA = (
    "nothing is downloaded: save its pictures into a folder, --instance_data_path, each caption beside its picture as NAME.txt"
)

SAID: Mapping[str, tuple[str, str]] = {
    # model
    "revision": (UNSUPPORTED, "nothing is downloaded: --weight is the file of that revision"),
    "variant": (TAKEN, "--weight reads float16 and float32 files alike; " + _NONE),
    "cache_dir": (TAKEN, "of downloads, and nothing is downloaded; " + _NONE),
    # photos
    "dataset_config_name": (UNSUPPORTED, _HUB_DATA),
    "image_column": (TAKEN, "photos are the files of a folder"),
    "random_flip": (UNSUPPORTED, "photos are not mirrored: put mirrored copies of half of them into the folder"),
    "max_train_samples": (UNSUPPORTED, "all photos of the folder: leave in it as many as you want"),
    **dict.fromkeys(
        ("crops_coords_top_left_h", "crops_coords_top_left_w"),
        (DIFFERS, "SDXL is told each photo's own crop, as newer scripts do"),
    ),
    "dataloader_num_workers": (TAKEN, "photos are read once by threads, data.num_parallel_workers; " + _NONE),
    "cache_latents": (TAKEN, "--cache_latents True, the default"),
    # text
    "train_text_encoder_ti": (UNSUPPORTED, _PIVOTAL),
    **dict.fromkeys(
        ("train_text_encoder_ti_frac", "token_abstraction", "num_new_tokens_per_abstraction"),
        (UNSUPPORTED, "of pivotal tuning: see there"),
    ),
    "clip_skip": (UNSUPPORTED, "the layers that SDXL was trained with, as without the argument"),
    # machine
    "allow_tf32": (TAKEN, "of NVIDIA's float32; " + _NONE),
    "enable_xformers_memory_efficient_attention": (TAKEN, _FAST),
    "enable_npu_flash_attention": (TAKEN, _FAST),
    "local_rank": (TAKEN, "mpirun tells each process its rank; " + _NONE),
    "prior_generation_precision": (DIFFERS, "class images are sampled as --ms_amp_level says, float16 on a device"),
    # results
    "output_kohya_format": (TAKEN, "--save_format kohya"),
    "resume_from_checkpoint": (UNSUPPORTED, "a state of diffusers cannot be continued here; its LoRA can: --weight BASE,LORA"),
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_model_id"), (UNSUPPORTED, _NO_HUB)),
    **dict.fromkeys(("logging_dir", "report_to", "debug_loss"), (TAKEN, _LOGS)),
}
