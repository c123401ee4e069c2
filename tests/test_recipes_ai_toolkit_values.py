"""ai-toolkit's settings, value by value: entries of the YAML, flags, and what became of each."""

import json

import pytest

from gm.recipes.draft import DIFFERS, TAKEN, UNKNOWN, UNSUPPORTED
from recipes import at, imported, loads, outcomes

UNET = "model.params.network_config.params."
LOSS = "model.params.loss_fn_config.params."
DENOISER = "model.params.denoiser_config.params."
LEVELS = "model.params.sigma_sampler_config.params"
DATA = "data.dataset_config.params."


def train(**settings):
    return {"train": {"steps": 100, "lr": 1e-4, **settings}}


def dataset(**settings):
    return {"datasets": [{"folder_path": "dog", "resolution": 1024, **settings}]}


CASES = {  # process -> entries of the YAML, flags, outcomes; by reading its code
    "rank": (
        {"network": {"rank": 8, "alpha": 4}},
        {UNET + "lora_dim": 8, UNET + "lora_alpha": 4.0},
        {},
        {"network.rank": TAKEN},
    ),
    "convolutions": (
        {"network": {"type": "locon", "linear": 8, "linear_alpha": 8, "conv": 4, "dropout": 0.1}},
        {
            UNET + "lora_targets": "all",
            UNET + "lora_conv_dim": 4,
            UNET + "lora_conv_alpha": 4.0,
            UNET + "lora_neuron_dropout": 0.1,
        },
        {},
        {"network.conv": TAKEN},
    ),
    "attention": (
        {"network": {"network_kwargs": {"only_if_contains": ["attn1", "attn2"], "module_dropout": 0.2}}},
        {UNET + "lora_targets": "attention", UNET + "lora_module_dropout": 0.2},
        {},
        {"network.network_kwargs.only_if_contains": TAKEN},
    ),
    "underscores": (
        {"network": {"network_kwargs": {"only_if_contains": ["attentions_"], "ignore_if_contains": [".ff."]}}},
        {},
        {},
        {"network.network_kwargs.ignore_if_contains": TAKEN},
    ),
    "lokr": (
        {"network": {"type": "lokr", "linear": 9999999999, "lokr_factor": 4}},
        {UNET + "lora_dim": 16, UNET + "lora_alpha": 16.0},
        {},
        {"network.type": UNSUPPORTED, "network.linear": UNSUPPORTED},
    ),
    "dora": ({"network": {"type": "dora", "linear": 4}}, {UNET + "lora_kind": "dora"}, {}, {"network.linear": TAKEN}),
    "lr counts for all networks": (
        train(train_text_encoder=True, unet_lr=5e-5, text_encoder_lr=1e-5) | {"model": {"use_text_encoder_2": False}},
        {"optim.base_learning_rate": 1e-4, "model.params.conditioner_config.params.emb_models.0.is_trainable": True},
        {},
        {"train.unet_lr": DIFFERS, "train.text_encoder_lr": DIFFERS, "model.use_text_encoder_2": TAKEN},
    ),
    "steps are micro-batches": (
        train(gradient_accumulation_steps=4) | {"save": {"save_every": 40}},
        {"data.total_step": 25},
        {"gradient_accumulation_steps": 4, "save_ckpt_interval": 10, "max_grad_norm": 1.0},
        {"train.steps": DIFFERS, "train.gradient_accumulation_steps": DIFFERS},
    ),
    "sums of gradients": (
        train(gradient_accumulation=4),
        {"data.total_step": 100},
        {"gradient_accumulation_steps": 4, "max_grad_norm": 0.25},
        {"train.steps": TAKEN, "train.gradient_accumulation": DIFFERS},
    ),
    "prodigy": (
        train(optimizer="prodigy", optimizer_params={"d_coef": 2, "beta4": 1}, lr=1),
        {
            "optim.optimizer_config.params.d_coef": 2.0,
            "optim.optimizer_config.params.eps": 1e-6,
            "optim.base_learning_rate": 1.0,
        },
        {},
        {"train.optimizer_params.d_coef": TAKEN, "train.optimizer_params.beta4": UNSUPPORTED},
    ),
    "adafactor is not clipped": (
        train(optimizer="adafactor"),
        {"optim.optimizer_config.params.relative_step": False, "optim.optimizer_config.params.scale_parameter": False},
        {"clip_grad": None},
        {"train.optimizer": TAKEN},
    ),
    "automagic": (
        train(optimizer="automagic"),
        {"optim.optimizer_config.target": "gm.training.optim.AdamW"},
        {},
        {"train.optimizer": UNSUPPORTED},
    ),
    "cosine": (
        train(lr_scheduler="cosine", lr_scheduler_params={"eta_min": 1e-5}),
        {"optim.scheduler_config": {"target": "gm.training.optim.Cosine", "params": {"final_factor": 0.1}}},
        {},
        {"train.lr_scheduler": TAKEN, "train.lr_scheduler_params.eta_min": TAKEN},
    ),
    "linear rises": (
        train(lr_scheduler="linear"),
        {
            "optim.scheduler_config.target": "gm.training.optim.Constant",
            "optim.scheduler_config.params.warmup_share": pytest.approx(2 / 3),
        },
        {},
        {"train.lr_scheduler": UNSUPPORTED},
    ),
    "linear falls": (
        train(lr_scheduler="linear", lr_scheduler_params={"start_factor": 1.0, "end_factor": 0.1}),
        {"optim.scheduler_config": {"target": "gm.training.optim.Linear", "params": {"final_factor": 0.1}}},
        {},
        {"train.lr_scheduler": TAKEN, "train.lr_scheduler_params.end_factor": TAKEN},
    ),
    "warm-up": (
        train(
            lr_scheduler="constant_with_warmup", lr_scheduler_params={"num_warmup_steps": 20}, gradient_accumulation_steps=2
        ),
        {"optim.scheduler_config.params.warmup_steps": 10},
        {},
        {"train.lr_scheduler_params.num_warmup_steps": TAKEN},
    ),
    "snr_gamma": (
        train(snr_gamma=5, min_snr_gamma=5),
        {DENOISER + "weighting_config.target": "gm.modules.diffusionmodules.denoiser_weighting.UnitWeighting"},
        {"max_grad_norm": 0.2},
        {"train.snr_gamma": TAKEN},
    ),
    "v": (
        train(min_snr_gamma=5) | {"model": {"is_v_pred": True}},
        {DENOISER + "scaling_config.target": "gm.modules.diffusionmodules.denoiser_scaling.VScaling"},
        {},
        {"model.is_v_pred": TAKEN, "train.min_snr_gamma": DIFFERS},
    ),
    "pseudo-huber": (
        train(loss_type="pseudo_huber"),
        {LOSS + "loss_type": "smooth_l1", LOSS + "huber_c": 0.01, LOSS + "huber_schedule": "constant"},
        {"max_grad_norm": 2.0},
        {"train.loss_type": TAKEN},
    ),
    "wavelet": (train(loss_type="wavelet"), {}, {}, {"train.loss_type": UNSUPPORTED}),
    "noise": (
        train(noise_offset=-0.05, min_denoising_steps=100, max_denoising_steps=800),
        {LOSS + "offset_noise_level": 0.05, LEVELS: {"min_timestep": 201, "max_timestep": 899}},
        {},
        {"train.noise_offset": DIFFERS, "train.max_denoising_steps": TAKEN},
    ),
    "captions": (
        dataset(shuffle_tokens=True, keep_tokens=1, token_dropout_rate=0.2, caption_dropout_rate=0.5, caption_ext="caption")
        | train(prompt_dropout_prob=0.5),
        {DATA + "captions": {"extensions": [".caption"], "dropout": 0.75, "tag_dropout": 0.2, "shuffle": True}},
        {},
        {"datasets.0.keep_tokens": UNSUPPORTED, "train.prompt_dropout_prob": DIFFERS, "datasets.0.shuffle_tokens": TAKEN},
    ),
    "trigger of a dataset": (
        dataset(trigger_word="sks", default_caption="a photo of [trigger]", num_repeats=3),
        {DATA + "captions.trigger": "sks"},
        {"instance_prompt": "a photo of [trigger]", "train_data_repeat": 3},
        {"datasets.0.trigger_word": TAKEN},
    ),
    "masks": (
        dataset(mask_path="masks", mask_min_value=0.1) | train(inverted_mask_prior=True),
        {DATA + "masks": {"folder": "masks", "unmasked_weight": 0.1, "normalise": True, "prior_weight": 0.5}},
        {},
        {"datasets.0.mask_path": DIFFERS, "train.inverted_mask_prior": DIFFERS},
    ),
    "class images": (
        {"datasets": [{"folder_path": "dog"}, {"folder_path": "dogs", "is_reg": True, "default_caption": "a dog"}]}
        | train(reg_weight=0.5),
        {"data.total_step": 50, "data.per_batch_size": 1},
        {"class_data_path": "dogs", "class_prompt": "a dog", "prior_loss_weight": 0.5},
        {"datasets.1.is_reg": DIFFERS, "train.reg_weight": TAKEN, "train.steps": DIFFERS},
    ),
    "two subjects": (
        {
            "datasets": [
                {"folder_path": "dog", "loss_multiplier": 0.5},
                {"folder_path": "cat", "num_repeats": 2, "caption_ext": "json"},
            ]
        },
        {
            DATA + "concepts": [
                {"instance_data_path": "dog", "repeats": 1, "weight": 0.5},
                {"instance_data_path": "cat", "repeats": 2},
            ]
        },
        {"instance_data_path": None},
        {"datasets.1.caption_ext": DIFFERS, "datasets.0.loss_multiplier": TAKEN},
    ),
    "squares": (
        dataset(buckets=False, random_crop=True),
        {DATA + "transforms.2.params.crop": "random"},
        {},
        {"datasets.0.buckets": TAKEN},
    ),
    "precision": (train(dtype="float16"), {}, {"ms_amp_level": None}, {"train.dtype": TAKEN}),
    "no pictures": (
        train(disable_sampling=True) | {"sample": {"prompts": ["a"], "width": 9}},
        {},
        {"infer_during_train": None},
        {"sample.width": TAKEN},
    ),
    "preservation": (
        train(
            diff_output_preservation=True, diff_output_preservation_class="dog", noise_multiplier=1.0, skip_first_sample=False
        ),
        {},
        {},
        {"train.diff_output_preservation": UNSUPPORTED, "train.noise_multiplier": TAKEN, "train.skip_first_sample": TAKEN},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_settings_value_by_value(tmp_path, name):
    process, entries, flags, became = CASES[name]
    process = {"type": "sd_trainer", "network": {}, "datasets": [{"folder_path": "dog"}], **process}
    process["model"] = {"is_xl": True, **process.get("model", {})}
    job = {"job": "extension", "config": {"name": "my_lora", "process": [process]}}
    recipe = imported(tmp_path, "job.yaml", json.dumps(job))  # JSON is YAML
    assert {key: at(recipe.draft.tree, key) for key in entries} == entries
    assert {flag: recipe.draft.flags.get(flag) for flag in flags} == flags
    assert {setting: outcomes(recipe)[setting] for setting in became} == became
    assert UNKNOWN not in outcomes(recipe).values()
    if entries:
        loads(recipe, tmp_path)
