"""OneTrainer's settings, value by value: entries of the YAML, flags, and what became of each."""

import json

import pytest

from gm.recipes.draft import DIFFERS, TAKEN, UNKNOWN, UNSUPPORTED
from recipes import at, imported, loads, outcomes

UNET = "model.params.network_config.params."
TEXT = "model.params.conditioner_config.params.emb_models."
LOSS = "model.params.loss_fn_config.params."
DENOISER = "model.params.denoiser_config.params."
DATA = "data.dataset_config.params."
SMALL = {
    "training_method": "LORA",
    "model_type": "STABLE_DIFFUSION_XL_10_BASE",
    "resolution": "1024",
    "epochs": 10,
    "batch_size": 2,
}
SMALL |= {"text_encoder": {"train": False}, "text_encoder_2": {"train": False}}

CASES = {  # settings -> entries of the YAML, flags, outcomes; by reading its code
    "attention": (
        {"layer_filter_preset": "attn-only"},
        {UNET + "lora_targets": "attention"},
        {},
        {"layer_filter_preset": TAKEN},
    ),
    "filter": (
        {"layer_filter": "attn2, up_blocks.0", "layer_filter_preset": "custom"},
        {UNET + "lora_targets": ["*.attn2.*", *(f"output_blocks.{i}.*" for i in range(3))]},
        {},
        {"layer_filter": TAKEN},
    ),
    "regex": (
        {"layer_filter": "down_blocks.1.*attn[12].to_k$", "layer_filter_regex": True},
        {UNET + "lora_targets": ["input_blocks.4.*.to_k", "input_blocks.5.*.to_k"]},
        {},
        {"layer_filter": TAKEN, "layer_filter_regex": TAKEN},
    ),
    "dora": (
        {"lora_decompose": True, "lora_rank": 8, "lora_alpha": 4, "dropout_probability": 0.1},
        {UNET + "lora_kind": "dora", UNET + "lora_dim": 8, UNET + "lora_alpha": 4.0, UNET + "lora_dropout": 0.1},
        {},
        {"lora_decompose": TAKEN, "lora_decompose_output_axis": DIFFERS, "dropout_probability": DIFFERS},
    ),
    "dropout": ({"dropout_probability": 0.1}, {UNET + "lora_neuron_dropout": 0.1}, {}, {"dropout_probability": TAKEN}),
    "loha": ({"peft_type": "LOHA", "lora_rank": 4}, {UNET + "lora_dim": 4}, {}, {"peft_type": UNSUPPORTED}),
    "text encoder": (
        {"text_encoder": {"train": True, "learning_rate": 1e-5, "stop_training_after": 5}, "learning_rate": 1e-4},
        {
            "optim.base_learning_rate": 1e-4,
            "optim.rates": {"text_encoder_1": 1e-5},
            "optim.text_encoder_stop_share": 0.5,
            TEXT + "0.params.lora_targets": "linear",
        },
        {},
        {"text_encoder.learning_rate": TAKEN, "text_encoder.stop_training_after": TAKEN},
    ),
    "stop in steps": (
        {"text_encoder": {"train": True, "stop_training_after": 20, "stop_training_after_unit": "STEP"}},
        {"optim.text_encoder_stop_share": 0.4},  # 20 of 10 x 5 micro-batches
        {},
        {"text_encoder.stop_training_after_unit": TAKEN},
    ),
    "rates times the root of the batch": (
        {"learning_rate": 1e-4, "learning_rate_scaler": "BOTH", "gradient_accumulation_steps": 2},
        {"optim.base_learning_rate": 2e-4, "data.total_step": 25},
        {"gradient_accumulation_steps": 2},
        {"learning_rate_scaler": TAKEN},
    ),
    "losses times the batch": ({"loss_scaler": "BATCH"}, {}, {"max_grad_norm": 0.5}, {"loss_scaler": DIFFERS}),
    "no clipping": ({"clip_grad_norm": None}, {}, {"clip_grad": None}, {}),
    "warm-up in micro-batches": (
        {"learning_rate_warmup_steps": 10, "gradient_accumulation_steps": 5},
        {"optim.scheduler_config.params.warmup_steps": 2},
        {},
        {"learning_rate_warmup_steps": TAKEN},
    ),
    "warm-up as a share": ({"learning_rate_warmup_steps": 0.1}, {"optim.scheduler_config.params.warmup_steps": 5}, {}, {}),
    "cosine": (
        {"learning_rate_scheduler": "COSINE", "learning_rate_min_factor": 0.1, "learning_rate_warmup_steps": 0},
        {"optim.scheduler_config": {"target": "gm.training.optim.Cosine", "params": {"final_factor": 0.1}}},
        {},
        {"learning_rate_scheduler": TAKEN, "learning_rate_min_factor": TAKEN},
    ),
    "hard restarts": (
        {"learning_rate_scheduler": "COSINE_WITH_HARD_RESTARTS", "learning_rate_cycles": 3},
        {"optim.scheduler_config.target": "gm.training.optim.CosineRestarts", "optim.scheduler_config.params.num_cycles": 3},
        {},
        {"learning_rate_scheduler": TAKEN, "learning_rate_cycles": TAKEN},
    ),
    "soft restarts": (
        {"learning_rate_scheduler": "COSINE_WITH_RESTARTS", "learning_rate_cycles": 2},
        {"optim.scheduler_config.params.num_cycles": 2},
        {},
        {"learning_rate_scheduler": DIFFERS},
    ),
    "half a soft cycle is a cosine": (
        {"learning_rate_scheduler": "COSINE_WITH_RESTARTS", "learning_rate_cycles": 0.5},
        {"optim.scheduler_config.target": "gm.training.optim.Cosine"},
        {},
        {"learning_rate_scheduler": TAKEN, "learning_rate_cycles": TAKEN},
    ),
    "rex": ({"learning_rate_scheduler": "REX"}, {"optim.scheduler_config.target": "gm.training.optim.Cosine"}, {}, {}),
    "prodigy": (
        {
            "optimizer": {"optimizer": "PRODIGY", "d_coef": 2.0, "growth_rate": "inf", "slice_p": 11, "fused": True},
            "learning_rate": 1,
        },
        {"optim.optimizer_config.target": "gm.training.optim.Prodigy", "optim.optimizer_config.params.d_coef": 2.0}
        | {"optim.optimizer_config.params.decouple": False, "optim.base_learning_rate": 1.0},
        {},
        {"optimizer.d_coef": TAKEN, "optimizer.slice_p": DIFFERS, "optimizer.fused": TAKEN},
    ),
    "adafactor": (
        {"optimizer": {"optimizer": "ADAFACTOR", "eps": 1e-30, "eps2": 1e-3}, "learning_rate": 5e-4},
        {"optim.optimizer_config.params.relative_step": False, "optim.optimizer_config.params.eps2": 1e-3},
        {},
        {"optimizer.eps": TAKEN},
    ),
    "relative step": (
        {"optimizer": {"optimizer": "ADAFACTOR", "relative_step": True}, "learning_rate_scheduler": "ADAFACTOR"},
        {"optim.base_learning_rate": None, "optim.scheduler_config": None},
        {},
        {"learning_rate_scheduler": TAKEN},
    ),
    "an optimizer that is not here": (
        {"optimizer": {"optimizer": "CAME", "beta1": 0.5, "weight_decay": 0.02, "use_cautious": True}},
        {"optim.optimizer_config.target": "gm.training.optim.AdamW", "optim.optimizer_config.params.beta1": 0.9}
        | {"optim.optimizer_config.params.weight_decay": 0.02},
        {},
        {"optimizer.optimizer": UNSUPPORTED, "optimizer.beta1": UNSUPPORTED, "optimizer.weight_decay": TAKEN},
    ),
    "schedule-free": (
        {"optimizer": {"optimizer": "SCHEDULE_FREE_ADAMW"}, "learning_rate_scheduler": "COSINE"},
        {"optim.scheduler_config": {"target": "gm.training.optim.Constant", "params": {}}},
        {},
        {"learning_rate_scheduler": TAKEN},
    ),
    "moving average": (
        {"ema": "GPU", "ema_decay": 0.99, "ema_update_step_interval": 2},
        {"optim.ema_decay": round(0.99**0.5, 8)},
        {},
        {"ema": TAKEN, "ema_decay": DIFFERS},
    ),
    "min-SNR": (
        {"loss_weight_fn": "MIN_SNR_GAMMA"},
        {DENOISER + "weighting_config.params.gamma": 5.0},
        {},
        {"loss_weight_fn": TAKEN, "loss_weight_strength": TAKEN},
    ),
    "debiased": (
        {"loss_weight_fn": "DEBIASED_ESTIMATION", "loss_weight_strength": 3},
        {DENOISER + "weighting_config.target": "gm.modules.diffusionmodules.denoiser_weighting.DebiasedWeighting"},
        {},
        {"loss_weight_fn": TAKEN, "loss_weight_strength": TAKEN},
    ),
    "p2": (
        {"loss_weight_fn": "P2", "loss_weight_strength": 1.0},
        {DENOISER + "weighting_config.params.gamma": 1.0},
        {},
        {"loss_weight_fn": UNSUPPORTED},
    ),
    "zero-terminal SNR means v": (
        {"rescale_noise_scheduler_to_zero_terminal_snr": True, "loss_weight_fn": "DEBIASED_ESTIMATION"},
        {DENOISER + "discretization_config.params.zero_terminal_snr": True}
        | {DENOISER + "scaling_config.target": "gm.modules.diffusionmodules.denoiser_scaling.VScaling"},
        {},
        {"rescale_noise_scheduler_to_zero_terminal_snr": TAKEN, "loss_weight_fn": DIFFERS},
    ),
    "huber": (
        {"mse_strength": 0, "huber_strength": 1.0, "huber_delta": 0.2},
        {LOSS + "loss_type": "huber", LOSS + "huber_c": 0.2, LOSS + "huber_schedule": "constant"},
        {"max_grad_norm": 2.0},  # half as large a loss there
        {"huber_strength": DIFFERS, "huber_delta": TAKEN, "mse_strength": TAKEN},
    ),
    "two losses": ({"mse_strength": 2.0, "mae_strength": 0.5}, {}, {"max_grad_norm": 0.5}, {"mae_strength": UNSUPPORTED}),
    "noise": (
        {
            "offset_noise_weight": 0.05,
            "min_noising_strength": 0.1,
            "max_noising_strength": 0.9,
            "perturbation_noise_weight": 0.1,
        },
        {
            LOSS + "offset_noise_level": 0.05,
            "model.params.sigma_sampler_config.params": {"min_timestep": 100, "max_timestep": 900},
        },
        {},
        {"offset_noise_weight": TAKEN, "perturbation_noise_weight": UNSUPPORTED},
    ),
    "generalized offset": (
        {"offset_noise_weight": 0.05, "generalized_offset_noise": True, "timestep_distribution": "LOGIT_NORMAL"},
        {LOSS + "offset_noise_level": 0.05},
        {},
        {"generalized_offset_noise": UNSUPPORTED, "timestep_distribution": UNSUPPORTED},
    ),
    "masks": (
        {"masked_training": True, "normalize_masked_area_loss": True, "masked_prior_preservation_weight": 0.5},
        {DATA + "masks": {"unmasked_weight": 0.1, "normalise": True, "prior_weight": 0.5}},
        {},
        {"masked_training": TAKEN, "masked_prior_preservation_weight": TAKEN},
    ),
    "sizes": ({"resolution": "768,1024,512"}, {DATA + "target_size": 1024}, {}, {"resolution": DIFFERS}),
    "one shape": ({"resolution": "1216x832"}, {DATA + "target_size": 1024}, {}, {"resolution": DIFFERS}),
    "squares": ({"aspect_ratio_bucketing": False}, {}, {}, {"aspect_ratio_bucketing": TAKEN}),
    "saves": (
        {"save_every": 2, "save_every_unit": "EPOCH", "backup_after": 1, "backup_after_unit": "HOUR"},
        {},
        {"save_ckpt_interval": 10, "save_every_minutes": 60},
        {"save_every": TAKEN, "backup_after": TAKEN},
    ),
    "precision": ({"train_dtype": "FLOAT_32"}, {}, {"ms_amp_level": "O0"}, {"train_dtype": TAKEN}),
    "bfloat16": ({"train_dtype": "BFLOAT_16"}, {}, {"ms_amp_level": None}, {"train_dtype": DIFFERS}),
    "old names": (
        {
            "__version": 0,
            "optimizer": "ADAMW",
            "optimizer_weight_decay": 0.1,
            "train_text_encoder": False,
            "unet_learning_rate": 1e-5,
        }
        | {
            "min_snr_gamma": 3,
            "lora_layer_preset": "attn-mlp",
            "gradient_checkpointing": False,
            "save_after": 5,
            "save_after_unit": "STEP",
        },
        {"optim.optimizer_config.params.weight_decay": 0.1, "optim.base_learning_rate": 1e-5, UNET + "lora_targets": "linear"}
        | {DENOISER + "weighting_config.params.gamma": 3.0},
        {"save_ckpt_interval": 5},
        {"unet.learning_rate": TAKEN, "loss_weight_fn": TAKEN, "gradient_checkpointing": TAKEN},
    ),
    "a LoRA to begin with": (
        {"lora_model_name": "a.safetensors"},
        {},
        {"start_from": "a.safetensors"},
        {"lora_model_name": TAKEN},
    ),
    "empty captions": (
        {"text_encoder": {"train": False, "dropout_probability": 0.1}},
        {DATA + "captions.dropout": 0.1},
        {},
        {"text_encoder.dropout_probability": DIFFERS},
    ),
    "samples": (
        {
            "samples": [{"prompt": "off", "enabled": False}, {"prompt": "a dog", "seed": 1}],
            "sample_after": 10,
            "sample_after_unit": "STEP",
        },
        {},
        {"infer_during_train": True, "infer_interval": 10, "infer_prompt": "a dog"},
        {"samples.1.prompt": TAKEN, "samples.1.seed": UNSUPPORTED, "sample_after": TAKEN},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_settings_value_by_value(tmp_path, name):
    given, entries, flags, became = CASES[name]
    recipe = imported(tmp_path, "preset.json", json.dumps({**SMALL, **given}))
    for key, value in entries.items():
        found = at(recipe.draft.tree, key)
        assert (sorted(found) if isinstance(found, list) else found) == (
            sorted(value) if isinstance(value, list) else value
        ), key
    assert {flag: recipe.draft.flags.get(flag) for flag in flags} == flags
    assert {setting: outcomes(recipe)[setting] for setting in became} == became
    assert UNKNOWN not in outcomes(recipe).values()
    if entries:
        loads(recipe, tmp_path)
