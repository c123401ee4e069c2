"""Files that recipes come in: metadata of LoRA, this suite's own, bad files; counting photos; and the command."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from gm import console
from gm.errors import UserError
from gm.recipes.draft import UNKNOWN
from gm.recipes.files import read_recipe
from gm.recipes.updates import Hints, Photos, photos_in, updates_of
from recipes import BASE, imported, loaded, outcomes, words_of
from tools import import_recipe


def test_what_a_lora_says_of_its_training(tmp_path):
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "16",
        "ss_network_alpha": "8.0",
        "ss_network_args": json.dumps({"conv_dim": "4", "conv_alpha": "2"}),
        "ss_learning_rate": "0.0003",
        "ss_unet_lr": "0.0003",
        "ss_text_encoder_lr": "None",
        "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.99))",
        "ss_lr_scheduler": "cosine",
        "ss_lr_warmup_steps": "0.05",
        "ss_max_train_steps": "1500",
        "ss_num_train_images": "100",
        "ss_num_epochs": "15",
        "ss_batch_size_per_device": "1",
        "ss_resolution": "(1024, 1024)",
        "ss_dataset_dirs": json.dumps({"10_sks dog": {"n_repeats": 10, "img_count": 10}}),
        "ss_tag_frequency": "{}",
        "ss_noise_offset": "0.0357",
        "ss_seed": "42",
        "ss_steps": "1500",
        "ss_sd_model_name": "sd_xl_base_1.0.safetensors",
        "modelspec.title": "dog",
    }
    path = tmp_path / "dog.safetensors"
    save_file({"a": np.zeros(1, np.float32)}, path, metadata)
    recipe = read_recipe([path], Hints())
    config = loaded(recipe, tmp_path)
    lora, optim = config.lora["unet"], config.optim
    assert (lora.rank, lora.alpha, lora.conv_rank, lora.conv_alpha) == (16, 8.0, 4, 2.0) and set(config.lora) == {"unet"}
    assert (optim.base_learning_rate, optim.weight_decay, optim.beta2, optim.warmup_share) == (3e-4, 0.1, 0.99, 0.05)
    assert config.data.total_step == 1500 and config.noise.offset_noise_level == 0.0357
    assert UNKNOWN not in outcomes(recipe).values()
    save_file({"a": np.zeros(1, np.float32)}, path, {"format": "pt"})
    with pytest.raises(UserError, match="says nothing of how it was trained"):
        read_recipe([path], Hints())


def test_a_lora_of_this_suite_is_its_own_recipe(tmp_path, root):
    whole = (root / "configs/training/small_dreambooth_lora_cpu.yaml").read_text().replace("../", str(root / "configs") + "/")
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "own.safetensors", {"recipe_yaml": whole})
    import_recipe.main([str(tmp_path / "own.safetensors"), "--output", str(tmp_path / "own.yaml")])
    assert (tmp_path / "own.yaml").read_text() == whole


def test_counting_photos(tmp_path):
    for name, count in (("10_sks dog", 3), ("2_cat", 4)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.png").touch()
    (tmp_path / "10_sks dog" / "0-masklabel.png").touch()
    assert photos_in(tmp_path) == Photos(7, 38, "3 x 10 (10_sks dog) + 4 x 2 (2_cat)")
    assert updates_of(3, Photos(7, 38, ""), 4, 2)[0] == 15  # 10 batches, 5 updates an epoch
    assert updates_of(3, Photos(7, 38, ""), 4, 2, doubled=True)[0] == 30
    assert updates_of(3, Photos(7, 38, ""), 4, 2, rounded_once=True)[0] == 15  # 14.25


BAD = {
    "a.json": ("{", "is not JSON"),
    "b.json": ("[1]", "not the settings of a trainer"),
    "c.json": ('{"colour": 1}', "no trainer that is known"),
    "d.json": ('{"LoRA_type": "Standard", "sdxl": false}', "not for SDXL"),
    "e.json": ('{"LoRA_type": "Flux1", "flux1_checkbox": true}', "FLUX.1"),
    "f.json": ('{"sdxl": true, "max_resolution": "1024", "learning_rate_te1": 1}', "no LoRA"),
    "g.toml": ("a = ", "is not TOML"),
    "h.toml": ("[[datasets]]\nresolution = 512", "no \\[\\[datasets.subsets\\]\\]"),
    "i.toml": ('network_module = "networks.lora_flux"', "flux"),
    "j.toml": ('network_dim = "many"', "network_dim: 'many' is not a number"),
    "o.toml": ('text_encoder_lr = "much"', "text_encoder_lr: 'much' is not a number"),
    "p.toml": ('resolution = "large"', "resolution: 'large' is not a number"),
    "k.toml": ('model_train_type = "flux-lora"', "flux-lora"),
    "l.toml": ("v2 = true", "Stable Diffusion 2"),
    "m.sh": ("echo hello", "starts no Python script"),
    "n.toml": ("network_dim = 100000\nnetwork_dropout = 2", "must be below 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_recipes_end_with_a_sentence(tmp_path, name):
    text, message = BAD[name]
    with pytest.raises(UserError, match=message):
        loaded(imported(tmp_path, name, text), tmp_path)


def test_the_command(shared, tmp_path, capsys):
    preset = shared / "recipes" / "kohya_ss__SDXL_-_LoRA_face_dogu_cat_v1.0.json"
    output = tmp_path / "new" / "face.yaml"
    words = [
        str(preset),
        "--output",
        str(output),
        "--instance_data_path",
        str(shared / "data" / "dog"),
        "--device_target",
        "CPU",
    ]
    import_recipe.main([*words, "--instance_prompt", "a photo of a sks dog", "--size", "512"])
    shown = capsys.readouterr()
    table = output.with_suffix(".md").read_text()
    assert "0 unknown" in table and "5 samples an epoch / batch 1 x 10 epochs = 50 updates" in table
    assert "adaptive_noise_scale" in shown.out and "taken over" not in shown.out
    assert "--instance_prompt 'a photo of a sks dog'" in table and "--prior_loss_weight 0" in table
    assert "target_size: 512" in output.read_text() and "bucket_reso_steps" not in output.read_text()
    before = output.read_text()
    assert console.run_command(import_recipe.main, words) == 2 and output.read_text() == before  # nothing is written over
    assert words_of(imported(tmp_path, "p.json", preset.read_text()), "mixed_precision").startswith("float16")


def test_what_the_command_says_counts_before_the_recipe(tmp_path):
    (tmp_path / "a.toml").write_text('network_dim = 8\ntrain_data_dir = "there"\nmax_train_epochs = 2\n')
    (tmp_path / "b.toml").write_text(
        '[[datasets]]\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir = "photos"\nclass_tokens = "a sks dog"\n'
    )
    words = [tmp_path / "a.toml", "--dataset", tmp_path / "b.toml", "--output", tmp_path / "out.yaml", "--num_photos", 6]
    words += [
        "--train_data_repeat",
        4,
        "--class_data_path",
        "class",
        "--class_prompt",
        "a dog",
        "--weight",
        "mine.safetensors",
    ]
    base = BASE.with_name("small_dreambooth_lora_cpu.yaml")
    import_recipe.main([str(word) for word in (*words, "--base", base, "--size", 64)])
    text, table = (tmp_path / "out.yaml").read_text(), (tmp_path / "out.md").read_text()
    assert "small_dreambooth_lora_cpu.yaml" in text and "target_size: 64" in text and "per_batch_size: 1" in text
    assert "24 samples an epoch x 2 with class images / batch 2 = 24; x 2 epochs = 48 updates" in table
    for flag in ("train_data_repeat 4", "class_data_path class", "class_prompt 'a dog'", "weight mine.safetensors"):
        assert f"--{flag} " in table
    assert "--instance_data_path photos" in table and "--prior_loss_weight 1.0" in table
