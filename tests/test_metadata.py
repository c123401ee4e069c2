"""What a LoRA file says of its training: names and values for the shipped YAML, and that other tools' readers find them."""

import json
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open

import tiny
from gm.checkpoint.io import open_tensors
from gm.checkpoint.lora_export import write_lora
from gm.checkpoint.lora_files import open_lora, save_lora
from gm.parallel.ranks import Ranks
from gm.runtime import Runtime
from gm.training.inputs import check_inputs
from gm.training.metadata import METADATA, Facts, metadata
from gm.training.run import make_schedule, photo_sets
from lora_samples import Q

DATA = "data.dataset_config.params"
UNET = "model.params.network_config.params"
WEIGHTING = "model.params.denoiser_config.params.weighting_config"


@pytest.fixture
def facts(shared, tmp_path):
    """Of a command line with five photos and as many class images."""

    def make(*more, config=tiny.TRAINING, level="O0", ranks=1) -> Facts:
        words = ("--config", config, "--weight", shared / "golden" / "tiny_sdxl.safetensors", "--device_target", "CPU")
        words += ("--instance_data_path", shared / "data" / "dog", "--instance_prompt", "a sks dog", "--class_prompt", "a dog")
        words += ("--class_data_path", shared / "data" / "dog6")
        inputs = check_inputs([str(word) for word in (*words, *more)], Ranks())
        sets = photo_sets(inputs, sorted((shared / "data" / "dog6").iterdir()) if inputs.class_folders else [])
        schedule = replace(make_schedule(inputs, sets, Ranks()), ranks=ranks)
        return Facts(inputs, Runtime("CPU", 0, level), schedule, started=1e9)

    return make


def test_names_and_values_of_the_default_yaml(facts):
    given = facts("--set", "data.total_step=100", "--train_data_repeat", 4)
    said = metadata(given, 20)
    finished = float(said.pop("ss_training_finished_at"))
    assert finished > 1.7e9 and said.pop("recipe_yaml") == given.inputs.config.raw
    assert json.loads(said.pop("ss_dataset_dirs")) == {"dog": {"n_repeats": 4, "img_count": 5}}
    assert json.loads(said.pop("ss_reg_dataset_dirs")) == {"dog6": {"n_repeats": 1, "img_count": 5}}
    assert said == {
        "ss_loss_type": "l2",
        "ss_shuffle_caption": "False",
        "ss_keep_tokens": "0",
        "ss_caption_dropout_rate": "0.0",
        "ss_caption_tag_dropout_rate": "0.0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "4.0",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_sd_model_name": "tiny_sdxl.safetensors",
        "ss_optimizer": "AdamW(beta1=0.9,beta2=0.999,eps=1e-08,weight_decay=0.01)",
        "ss_learning_rate": "0.001",
        "ss_unet_lr": "0.001",
        "ss_lr_scheduler": "constant",
        "ss_lr_warmup_steps": "0",
        "ss_max_grad_norm": "0.0",
        "ss_max_train_steps": "100",
        "ss_steps": "20",
        "ss_num_epochs": "5",
        "ss_epoch": "1",
        "ss_num_batches_per_epoch": "20",
        "ss_batch_size_per_device": "1",
        "ss_total_batch_size": "1",
        "ss_gradient_accumulation_steps": "1",
        "ss_gradient_checkpointing": "False",
        "ss_mixed_precision": "no",
        "ss_seed": "42",
        "ss_training_started_at": "1000000000.0",
        "ss_prior_loss_weight": "1.0",
        "ss_num_train_images": "20",
        "ss_num_reg_images": "5",
        "ss_resolution": "(128, 128)",
        "ss_random_crop": "True",
        "ss_enable_bucket": "False",
        "ss_cache_latents": "True",
        "ss_max_token_length": "75",
    }


def test_what_differs_is_said(facts, tmp_path):
    warm = ("--set", "optim.scheduler_config={target: gm.training.optim.Constant, params: {warmup_steps: 7}}")
    more = ("--clip_grad", "True", "--max_grad_norm", 0.5, "--gradient_accumulation_steps", 2)
    loss = "model.params.loss_fn_config.params"
    more += ("--set", f"{loss}.offset_noise_level=0.0357", "--set", f"{loss}.multires_noise_iterations=6")
    more += ("--set", f"{loss}.input_perturbation=0.1", "--set", f"{loss}.loss_type=huber")
    sampler = "model.params.sigma_sampler_config.params"
    more += ("--set", f"{sampler}.min_timestep=10", "--set", f"{sampler}.max_timestep=900")
    more += ("--set", f"{UNET}.lora_targets=all", "--set", f"{UNET}.lora_kind=dora", "--set", f"{UNET}.lora_conv_dim=2")
    more += ("--set", f"{UNET}.lora_neuron_dropout=0.25", "--set", "optim.rates.text_encoder_2=1.0e-5")
    more += ("--set", "optim.scale_weight_norms=1.0", "--set", f"{DATA}.captions.keep_tokens_separator='|||'")
    more += (
        "--set",
        f"{DATA}.captions.prefix=p",
        "--set",
        f"{DATA}.captions.suffix=s",
        "--set",
        f"{DATA}.captions.dropout=0.05",
    )
    more += ("--set", f"{DATA}.buckets.max_buckets=2")
    more += ("--set", f"{DATA}.max_tokens=225", "--set", f"{DATA}.target_size=96", "--set", "data.per_batch_size=3")
    more += ("--set", WEIGHTING + ".target=gm.modules.diffusionmodules.denoiser_weighting.MinSNRWeighting", *warm)
    said = metadata(facts(*more, config=tiny.TEXT_TRAINING, level="O2", ranks=4), 7)
    expected = {"max_grad_norm": "0.5", "noise_offset": "0.0357", "min_snr_gamma": "5.0", "max_token_length": "225"}
    expected |= {"resolution": "(96, 96)", "mixed_precision": "fp16", "lr_scheduler": "constant_with_warmup"}
    expected |= {"lr_warmup_steps": "7", "gradient_accumulation_steps": "2", "total_batch_size": "24", "epoch": "4"}
    expected |= {"batch_size_per_device": "3", "num_batches_per_epoch": "17"}
    expected |= {"unet_lr": said["ss_learning_rate"], "text_encoder_lr": f"[{said['ss_learning_rate']}, 1e-05]"}
    expected |= {"loss_type": "huber", "huber_c": "0.1", "huber_schedule": "snr", "ip_noise_gamma": "0.1"}
    expected |= {
        "multires_noise_iterations": "6",
        "multires_noise_discount": "0.3",
        "min_timestep": "10",
        "max_timestep": "900",
    }
    expected |= {
        "network_dropout": "0.25",
        "network_args": '{"conv_dim": "2", "dora_wd": "True"}',
        "scale_weight_norms": "1.0",
    }
    expected |= {"keep_tokens_separator": "|||", "caption_prefix": "p", "caption_suffix": "s", "caption_dropout_rate": "0.05"}
    expected |= {"max_bucket_reso": "192", "min_bucket_reso": "32", "bucket_no_upscale": "False"}
    assert {name: said[f"ss_{name}"] for name in expected} == expected
    alone = metadata(facts("--prior_loss_weight", 0, "--vae", tmp_path / "vae.safetensors"), 0)
    assert alone["ss_num_reg_images"] == "0" and alone["ss_vae_name"] == "vae.safetensors" and alone["ss_steps"] == "0"
    assert set(said) | set(alone) | {"ss_debiased_estimation", "ss_masked_loss", "ss_bucket_info"} == set(METADATA)


def test_photos_of_several_shapes_are_buckets(facts, tmp_path):
    for number, size in enumerate([(200, 100), (100, 100), (210, 100)]):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", size, "red").save(tmp_path / "photos" / f"{number}.png")
    more = ("--instance_data_path", tmp_path / "photos", "--train_data_repeat", 3, "--set", f"{DATA}.buckets.max_buckets=2")
    said = metadata(facts(*more, "--prior_loss_weight", 0), 1)
    assert said["ss_enable_bucket"] == "True"
    assert json.loads(said["ss_bucket_info"]) == {
        "buckets": {"0": {"resolution": [160, 96], "count": 6}, "1": {"resolution": [128, 128], "count": 3}}
    }


def test_the_files_say_it_to_other_readers(facts, tmp_path):
    given = facts("--set", f"{DATA}.target_size=64")
    about = metadata(given, 20) | {"lora_rank": "4", "lora_alpha": "4.0", "step": "20", "instance_prompt": "a 'sks' dog"}
    ranks = {f"{Q}.lora_A.weight": np.ones((4, 64), np.float32), f"{Q}.lora_B.weight": np.ones((64, 4), np.float32)}
    native = tmp_path / "native.ckpt"
    save_lora(native, ranks, about)
    assert open_tensors(native).metadata == about
    loaded = ms.load_checkpoint(str(native))
    assert {name for name in loaded if "lora_A" in name or "lora_B" in name} == set(ranks)
    with open_lora(native, tiny.model()) as file:
        write_lora(file, tmp_path / "kohya.safetensors", "kohya", model=tiny.model())
        write_lora(file, tmp_path / "again.ckpt", "native", model=tiny.model())
    with safe_open(tmp_path / "kohya.safetensors", "numpy") as file:
        said = file.metadata()
    of_training = {name: text for name, text in about.items() if name.startswith("ss_")}
    del of_training["ss_base_model_version"]  # a small model is not called SDXL
    assert {name: said[name] for name in of_training} == of_training and "ss_base_model_version" not in said
    assert said["recipe_yaml"] == given.inputs.config.raw and said["modelspec.resolution"] == "64x64"
    assert OmegaConf.create(said["recipe_yaml"]).data.dataset_config.params.target_size == 64
    back = open_tensors(tmp_path / "again.ckpt").metadata  # the recipe stays; what has a native name is said by that
    assert back["ss_optimizer"] == about["ss_optimizer"] and back["recipe_yaml"] == about["recipe_yaml"]
    assert back["step"] == "20" and "ss_steps" not in back
