"""Command lines, and the settings of diffusers' training scripts in this suite's words."""

import pytest

from gm.config.load import load_config
from gm.errors import UserError
from gm.models.adapters import adapters_of
from gm.recipes.command_line import command_of
from gm.recipes.diffusers import read_diffusers
from gm.recipes.draft import DIFFERS, TAKEN, UNKNOWN, UNSUPPORTED, Draft, Settings
from gm.recipes.updates import Hints
from gm.recipes.written import yaml_text

BASE = "configs/training/sd_xl_base_finetune_dreambooth_lora_910b.yaml"
DREAMBOOTH, ADVANCED, CAPTIONED = (
    "train_dreambooth_lora_sdxl.py",
    "train_dreambooth_lora_sdxl_advanced.py",
    "train_text_to_image_lora_sdxl.py",
)
SHARED = """pretrained_model_name_or_path pretrained_vae_model_name_or_path revision variant dataset_name dataset_config_name
image_column caption_column validation_prompt num_validation_images validation_epochs output_dir cache_dir seed resolution
center_crop random_flip train_text_encoder train_batch_size num_train_epochs max_train_steps checkpointing_steps
checkpoints_total_limit resume_from_checkpoint gradient_accumulation_steps gradient_checkpointing learning_rate scale_lr
lr_scheduler lr_warmup_steps snr_gamma allow_tf32 dataloader_num_workers use_8bit_adam adam_beta1 adam_beta2 adam_weight_decay
adam_epsilon max_grad_norm push_to_hub hub_token hub_model_id logging_dir report_to mixed_precision local_rank
enable_xformers_memory_efficient_attention rank image_interpolation_mode""".split()
SUBJECT = """instance_data_dir repeats class_data_dir instance_prompt class_prompt do_edm_style_training with_prior_preservation
prior_loss_weight num_class_images sample_batch_size text_encoder_lr lr_num_cycles lr_power optimizer prodigy_beta3
prodigy_decouple adam_weight_decay_text_encoder prodigy_use_bias_correction prodigy_safeguard_warmup prior_generation_precision
lora_dropout use_dora""".split()
ARGUMENTS = {  # of diffusers' parse_args (58eb52c), and of earlier versions
    DREAMBOOTH: [*SHARED, *SUBJECT, "output_kohya_format", "crops_coords_top_left_h", "crops_coords_top_left_w"],
    ADVANCED: [
        *SHARED,
        *SUBJECT,
        *("token_abstraction", "num_new_tokens_per_abstraction", "clip_skip", "train_text_encoder_ti"),
        *("train_text_encoder_ti_frac", "train_text_encoder_frac", "noise_offset", "lora_unet_blocks", "use_blora"),
        *("cache_latents", "crops_coords_top_left_h", "crops_coords_top_left_w"),
    ],
    CAPTIONED: [
        *SHARED,
        *(
            "train_data_dir",
            "max_train_samples",
            "prediction_type",
            "enable_npu_flash_attention",
            "noise_offset",
            "debug_loss",
        ),
        "prior_generation_precision",
    ],
}
VALUES = {
    "lr_scheduler": "cosine_with_restarts",
    "mixed_precision": "fp16",
    "prediction_type": "v_prediction",
    "image_interpolation_mode": "bicubic",
    "lora_unet_blocks": "unet.up_blocks.0",
    "optimizer": "prodigy",
    "repeats": "3",
    **dict.fromkeys(("adam_beta1", "adam_beta2", "prodigy_beta3", "lora_dropout"), "0.5"),
    "adam_epsilon": "1e-8",
    "dataset_name": "some/pictures",
    **dict.fromkeys(
        ("instance_prompt", "class_prompt", "validation_prompt", "caption_column", "image_column", "output_dir"), "a text"
    ),
    **dict.fromkeys(("instance_data_dir", "train_data_dir", "class_data_dir", "pretrained_model_name_or_path"), "folder"),
}
SWITCHES = {
    *"""do_edm_style_training with_prior_preservation center_crop random_flip train_text_encoder scale_lr use_8bit_adam push_to_hub
allow_tf32 enable_xformers_memory_efficient_attention gradient_checkpointing use_dora output_kohya_format train_text_encoder_ti use_blora
cache_latents enable_npu_flash_attention debug_loss""".split()
}


def drafted(script=DREAMBOOTH, hints=Hints(), **values):
    settings, draft = Settings({"script": script, **values}, "diffusers", "--recipe run.sh"), Draft()
    read_diffusers(settings, draft, hints)
    return {row.name: row for row in settings.rows}, draft


def loaded(draft, folder):
    path = folder / "recipe.yaml"
    path.write_text(yaml_text(draft, BASE, path, "a test"), encoding="utf-8")
    return load_config(str(path), (), training=True)


@pytest.mark.parametrize("script", ARGUMENTS)
def test_every_argument_has_a_row(script, tmp_path):
    values = {name: True if name in SWITCHES else VALUES.get(name, "1") for name in ARGUMENTS[script]}
    rows, draft = drafted(script, **values)
    assert {name for name in values if name not in rows or rows[name].outcome == UNKNOWN} == set()
    assert drafted(script, nonsense="1", **values)[0]["nonsense"].outcome == UNKNOWN
    config = loaded(draft, tmp_path)
    assert adapters_of(config.model, config.lora)
    assert config.optim.optimizer == ("AdamW" if script == CAPTIONED else "Prodigy")


def test_what_the_script_does_where_nothing_is_said(tmp_path):
    rows, draft = drafted(instance_data_dir="dog", instance_prompt="a photo of sks dog", max_train_steps="500")
    config = loaded(draft, tmp_path)
    assert len(adapters_of(config.model, config.lora)) == 560
    assert (config.lora["unet"].rank, config.lora["unet"].alpha, list(config.lora)) == (4, 4.0, ["unet"])
    assert (config.optim.base_learning_rate, config.optim.weight_decay, config.optim.schedule) == (1e-4, 1e-4, "constant")
    assert (config.optim.warmup_steps, config.data.per_batch_size, config.data.total_step) == (0, 4, 500)
    assert (config.data.interpolation, config.data.crop, config.data.target_size) == (1, "random", 1024)
    expected = {
        "clip_grad": True,
        "max_grad_norm": 1.0,
        "train_data_repeat": 1,
        "prior_loss_weight": 0,
        "save_ckpt_interval": 500,
    }
    assert expected.items() <= draft.flags.items()
    for name in ("rank", "adam_weight_decay", "max_grad_norm", "repeats", "train_batch_size", "with_prior_preservation"):
        assert rows[name].given.endswith("(its default)")


def test_updates_of_epochs_count_the_longer_of_photos_and_class_images():
    prior = {"with_prior_preservation": True, "class_data_dir": "dogs", "class_prompt": "a dog", "num_train_epochs": "3"}
    values = {
        "instance_data_dir": "dog",
        "instance_prompt": "a sks dog",
        "train_batch_size": "2",
        "gradient_accumulation_steps": "3",
    }
    hints = Hints(num_photos=5)
    # 5 x 4 samples, batches of 2, 3 accumulated: ceil(10 / 3) = 4 updates an epoch
    assert drafted(hints=hints, repeats="4", num_train_epochs="3", **values)[1].tree["data"]["total_step"] == 12
    # 100 class images: ceil(50 / 3) = 17
    draft = drafted(hints=hints, repeats="4", **values, **prior)[1]
    assert draft.tree["data"]["total_step"] == 51 and draft.flags["num_class_images"] == 100
    assert drafted(hints=hints, repeats="4", num_class_images="20", **values, **prior)[1].tree["data"]["total_step"] == 12
    two = {"accelerate.num_processes": "2"}  # ceil(10 / 6) = 2
    assert drafted(hints=hints, repeats="4", num_train_epochs="3", **values, **two)[1].tree["data"]["total_step"] == 6


def test_rates_and_decay_of_text_encoders(tmp_path):
    rows, draft = drafted(
        train_text_encoder=True, max_train_steps="9", scale_lr=True, train_batch_size="2", learning_rate="2e-5"
    )
    optim = loaded(draft, tmp_path).optim
    assert optim.base_learning_rate == pytest.approx(4e-5)
    assert optim.rates == {"text_encoder_1": 5e-6, "text_encoder_2": 5e-6}
    assert rows["adam_weight_decay_text_encoder"].outcome == DIFFERS
    optim = loaded(drafted(train_text_encoder=True, max_train_steps="9", text_encoder_lr="0")[1], tmp_path).optim
    assert optim.rates == {}
    draft = drafted(ADVANCED, train_text_encoder=True, train_text_encoder_frac="0.25", optimizer="prodigy", learning_rate="1")[
        1
    ]
    optim = loaded(draft, tmp_path).optim
    assert (optim.text_encoder_stop_share, optim.rates, optim.prodigy.safeguard_warmup) == (0.25, {}, True)


def test_any_word_is_true_for_prodigys_switches(tmp_path):
    rows, draft = drafted(optimizer="prodigy", learning_rate="1", max_train_steps="9", prodigy_decouple="False")
    assert loaded(draft, tmp_path).optim.prodigy.decouple is True and "any word" in rows["prodigy_decouple"].words


@pytest.mark.parametrize(
    "values, schedule, warmup",
    [
        ({"lr_scheduler": "constant", "lr_warmup_steps": "50"}, "constant", 0),
        ({"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": "50"}, "constant", 50),
        ({"lr_scheduler": "cosine"}, "cosine", 500),
        ({"lr_scheduler": "polynomial", "lr_power": "2", "lr_warmup_steps": "0"}, "polynomial", 0),
        ({"lr_scheduler": "cosine_with_restarts", "lr_num_cycles": "3", "lr_warmup_steps": "5"}, "cosine_restarts", 5),
        # the warm-up is one of updates, on any number of devices
        ({"lr_scheduler": "linear", "lr_warmup_steps": "7", "accelerate.num_processes": "4"}, "linear", 7),
    ],
)
def test_schedules(values, schedule, warmup, tmp_path):
    optim = loaded(drafted(max_train_steps="1000", **values)[1], tmp_path).optim
    assert (optim.schedule, optim.warmup_steps) == (schedule, warmup)
    assert optim.power == float(values.get("lr_power", 1)) and optim.num_cycles == int(values.get("lr_num_cycles", 1))


def test_the_captioned_scripts_schedule_counts_micro_batches(tmp_path):
    rows, draft = drafted(
        CAPTIONED, max_train_steps="100", lr_scheduler="cosine", lr_warmup_steps="5", gradient_accumulation_steps="4"
    )
    assert loaded(draft, tmp_path).optim.warmup_steps == 20
    assert rows["lr_scheduler"].outcome == DIFFERS and "400" in rows["lr_scheduler"].words
    assert draft.flags["prior_loss_weight"] == 0


def test_losses(tmp_path):
    rows, draft = drafted(max_train_steps="9", snr_gamma="5", do_edm_style_training=True)
    weighting = loaded(draft, tmp_path).weighting
    assert (weighting.name, weighting.params) == ("MinSNRWeighting", {"gamma": 5.0})
    assert rows["do_edm_style_training"].outcome == DIFFERS
    assert drafted(max_train_steps="9", do_edm_style_training=True)[0]["do_edm_style_training"].outcome == TAKEN
    playground = {
        "pretrained_model_name_or_path": "playgroundai/playground-v2.5-1024px-aesthetic",
        "do_edm_style_training": True,
    }
    assert drafted(max_train_steps="9", **playground)[0]["do_edm_style_training"].outcome == UNSUPPORTED
    config = loaded(drafted(CAPTIONED, max_train_steps="9", prediction_type="v_prediction", noise_offset="0.05")[1], tmp_path)
    assert (config.model.prediction, config.weighting.name, config.noise.offset_noise_level) == ("v", "VWeighting", 0.05)


@pytest.mark.parametrize(
    "blocks, modules",
    [
        ("unet.up_blocks.0.attentions.0", 10 * 8),
        ("unet.up_blocks.0.attentions.0, unet.up_blocks.0.attentions.1", 20 * 8),
        ("unet.down_blocks.1", 2 * 2 * 8),
        ("unet.mid_block.attentions.0.transformer_blocks.3", 8),
    ],
)
def test_blocks_by_diffusers_names(blocks, modules, tmp_path):
    config = loaded(drafted(ADVANCED, max_train_steps="9", lora_unet_blocks=blocks)[1], tmp_path)
    assert len(adapters_of(config.model, config.lora)) == modules


@pytest.mark.parametrize(
    "script, values, part",
    [
        ("train_dreambooth_lora_flux.py", {}, "no LoRA for SDXL"),
        ("train_text_to_image_sdxl.py", {}, "no LoRA for SDXL"),
        (DREAMBOOTH, {"learning_rate": "fast"}, "learning_rate: 'fast'"),
        (DREAMBOOTH, {"train_batch_size": "0"}, "at least 1"),
        (DREAMBOOTH, {"image_interpolation_mode": "best"}, "lanczos"),
        (CAPTIONED, {"prediction_type": "sample"}, "epsilon or v_prediction"),
        (ADVANCED, {"lora_unet_blocks": "unet.down_blocks.0"}, "no block"),
    ],
)
def test_what_cannot_be_taken_over(script, values, part):
    with pytest.raises(UserError, match=part) as caught:
        drafted(script, **values)
    assert str(caught.value).startswith("--recipe run.sh")


TEXT = """# don't run as root
export MODEL_NAME="stabilityai/stable diffusion"  # a comment
OUT='a $b'; LR=1e-4
MORE="--foo 1 --bar"
pip install -r requirements.txt
wget https://example.org/train_dreambooth_lora_sdxl.py
CUDA_VISIBLE_DEVICES=0 accelerate launch --num_processes=2 --mixed_precision fp16 scripts/train_dreambooth_lora_sdxl.py \\
  --pretrained_model_name_or_path="$MODEL_NAME/xl" --output_dir "${OUT}" --learning_rate=${LR} --seed -1 \\
  --network_args "conv_dim=8" 'conv_alpha=1' --train_text_encoder $MORE --nothing= --unset=$NOPE --usual=${NOPE:-3} \\
  --prompt 'it''s "so"' "and \\"so\\" \\$1" --rank 4 --rank 8 && echo done
"""


def test_a_command_line_in_a_shell_file():
    script, values = command_of(TEXT)
    assert script == "train_dreambooth_lora_sdxl.py"
    assert values == {
        "accelerate.num_processes": "2",
        "accelerate.mixed_precision": "fp16",
        "pretrained_model_name_or_path": "stabilityai/stable diffusion/xl",
        "output_dir": "a $b",
        "learning_rate": "1e-4",
        "seed": "-1",
        "network_args": ["conv_dim=8", "conv_alpha=1"],
        "train_text_encoder": True,
        "foo": "1",
        "bar": True,
        "nothing": "",
        "unset": "$NOPE",
        "usual": "3",
        "prompt": ['its "so"', 'and "so" $1'],
        "rank": "8",
    }


@pytest.mark.parametrize(
    "text, values",
    [
        ("Some prose, don't read it.\n```bash\npython train.py \\\n--a 1\n```\nMore 'prose", {"a": "1"}),
        (
            'accelerate launch ^\n "D:\\new\\train.py" ^\n --dir=D:\\new\\img --lr 5 ^\n --z',
            {"dir": "D:\\new\\img", "lr": "5", "z": True},
        ),
        ("set MODEL=C:\\xl\npython train.py --m %MODEL% --p 50%", {"m": "C:\\xl", "p": "50%"}),
        ("!python train.py --a 'x y' # notebook", {"a": "x y"}),
        ("%env A=3\n!python train.py --a $A", {"a": "3"}),
        ('cd "$(dirname "$0")"\npython train.py `\n --a 3', {"a": "3"}),
        ("python train.py --a x\\\n--b y", {"a": "x", "b": "y"}),
        ("python train.py --a x\npython train.py --a x", {"a": "x"}),
        ("python prepare.py --q 1\npython train.py --a x", {"a": "x"}),
    ],
)
def test_other_ways_to_write_it(text, values):
    assert command_of(text) == ("train.py", values)


@pytest.mark.parametrize(
    "text, part",
    [
        ("", "starts no Python script"),
        ("wget https://example.org/train.py", "starts no Python script"),
        ("python train.py config.toml", "'config.toml' stands behind train.py"),
        ("python train.py --a $(date +%s)", r"'\$\(date \+%s\)'"),
        ("D=`ls x`\npython train.py --a $D", "'`ls x`'"),
        ("python train.py --a ${x[@]}", "write its value"),
        ("python train.py --a 'x", "never closed"),
        ("python train.py --a 1\npython train_two.py --b", "2 trainings"),
    ],
)
def test_what_is_no_command_line(text, part):
    with pytest.raises(UserError, match=part):
        command_of(text)
