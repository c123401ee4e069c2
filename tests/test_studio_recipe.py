"""The part "recipe" of the page: settings become YAML and command, wrong ones a sentence, foreign recipes ours."""

import json
from pathlib import Path

import pytest

from recipe_draft import KOHYA, LORA, OPTIMIZER, PHOTOS, draft, flag, mask_one, studio, take_over  # noqa: F401  fixtures

# -- settings -> YAML and command ---------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["Small SDXL", "SDXL-base-1.0"])
@pytest.mark.parametrize("device", ["CPU", "Ascend", "GPU"])
@pytest.mark.parametrize("preset", ["", "pet", "style", "product"])
def test_every_preset_goes_with_every_model(studio, draft, model, device, preset):
    """Its size and what only the 910B's YAML says stay the model's own."""
    from gm.config.load import load_config
    from studio.recipe import command

    settings = draft.change(model=model, device=device, preset=preset)
    own = load_config(studio.models[model].yaml(device))
    found = command.config_of(studio, settings)
    assert found.data.target_size == own.data.target_size
    assert found.lora["unet"].kind == ("dora" if preset == "product" else "lora")
    assert found.lora["unet"].rank == {"": 4, "pet": 16, "style": 16, "product": 8}[preset]
    assert found.optim.base_learning_rate == (1.0 if preset == "style" else own.optim.base_learning_rate)
    assert found.model == own.model


def test_the_command_trains_what_was_prepared(studio, draft):
    from gm.options.train import parse_train
    from studio.recipe import command

    draft.change(flags={"seed": "7", "num_class_images": "12"}, overrides={"data.total_step": "20"})
    command.keep_prompts(draft, "a sks dog in the snow\na sks dog at night --d 3")
    folder = studio.runs / "job"
    words = command.words_of(studio, draft.settings(), folder)
    options = parse_train(words[1:])
    assert words[0] == "train_dreambooth.py" and options.seed == 7 and options.num_class_images == 12
    assert options.weight == "checkpoints/small_sdxl.safetensors" and options.device_target == "CPU"
    assert options.infer_during_train and options.infer_interval == 4 and options.save_ckpt_interval == 4
    assert options.infer_prompts == str(folder / "prompts.txt") and options.sample_step == 20
    assert Path(options.class_data_path).parent == studio.runs / "class_images"
    assert options.set == (), "the YAML says everything, so that it is the recipe"


def test_without_a_class_prompt_there_are_no_class_images(studio, draft):
    from studio.recipe import command

    for changes in ({"class_prompt": ""}, {"class_prompt": "a dog", "flags": {"prior_loss_weight": "0"}}):
        words = command.words_of(studio, draft.change(**changes), studio.runs / "job")
        assert flag(words, "prior_loss_weight") == "0" and "--class_data_path" not in words


def test_class_images_are_shared_by_what_is_the_same(studio, draft):
    from studio.recipe import command

    def folder(**changes):
        return flag(command.words_of(studio, draft.change(**changes), studio.runs / "job"), "class_data_path")

    first = folder()
    assert folder(overrides={LORA + "lora_dim": "8"}) == first
    assert folder(overrides={PHOTOS + "target_size": "128"}) != first
    assert folder(overrides={}, class_prompt="../../etc") != first
    assert Path(folder()).parent == studio.runs / "class_images"


def test_masks_count_by_themselves_unless_set(studio, draft):
    from studio.recipe import command

    assert command.config_of(studio, draft.settings()).data.masks is None
    mask_one(draft)
    assert command.config_of(studio, draft.settings()).data.masks.unmasked_weight == 0.1
    assert command.config_of(studio, draft.change(excluded=("dog1.png",))).data.masks is None
    off = draft.change(excluded=(), overrides={PHOTOS + "masks": "null"})
    assert command.config_of(studio, off).data.masks is None


def test_another_optimizer_leaves_the_presets_params(studio, draft):
    from studio.recipe import command

    settings = draft.change(
        preset="style", overrides={OPTIMIZER: "gm.training.optim.Lion", "optim.base_learning_rate": "3e-5"}
    )
    optim = command.config_of(studio, settings).optim
    assert (optim.optimizer, optim.base_learning_rate, optim.beta2) == ("Lion", 3e-5, 0.99)


def test_text_encoders_train_and_stop(studio, draft):
    from studio.recipe import command
    from studio.recipe.tree import TRAINS_TEXT

    on = command.config_of(studio, draft.change(overrides=dict.fromkeys(TRAINS_TEXT, "True")))
    assert on.trains_text_encoders and len(on.lora) == 3
    (draft.folder / "imported.yaml").write_text(
        "model: {params: {conditioner_config: {params: {emb_models: {0: {is_trainable: True, target: "
        "gm.modules.embedders.modules.FrozenCLIPEmbedder_lora, params: {lora_dim: 8}}}}}}}"
    )
    assert command.config_of(studio, draft.change(recipe="imported.yaml", overrides={})).lora["text_encoder_1"].rank == 8
    off = command.config_of(studio, draft.change(overrides=dict.fromkeys(TRAINS_TEXT, "False")))
    assert list(off.lora) == ["unet"]


def test_no_recipe_leads_out_of_the_draft(studio, draft):
    """Neither its photos nor masks nor base are those that a file of a visitor names."""
    from studio.recipe import command

    mask_one(draft)
    (draft.folder / "imported.yaml").write_text(
        "base: /etc/passwd\ndata: {dataset_config: {params: {concepts: [{instance_data_path: /etc}], masks: {folder: /etc}}}}"
    )
    settings = draft.change(recipe="imported.yaml", flags={"cache_dir": "/etc", "vae": "/etc/passwd"})
    config = command.config_of(studio, settings)
    assert config.data.concepts == () and config.data.masks.folder is None
    assert "/etc" not in " ".join(command.words_of(studio, settings, studio.runs / "job"))


# -- starting -----------------------------------------------------------------------------------------------


def test_a_start_copies_what_is_trained_on(studio, draft):
    from gm.parallel.ranks import Ranks
    from gm.training.inputs import check_inputs
    from studio.recipe.starting import start

    mask_one(draft)
    draft.change(excluded=("dog0.png",), name="My Dog!")
    job = start(studio, draft)
    assert job.folder == studio.runs / "my_dog" and job.device == "CPU"
    assert sorted(path.name for path in (job.folder / "photos").iterdir()) == ["dog1-masklabel.png", "dog1.png"]
    inputs = check_inputs(job.words[1:], Ranks())
    assert [len(subject.photos) for subject in inputs.subjects] == [1] and inputs.config.data.masks is not None
    assert inputs.folder == job.folder


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"excluded": ("dog0.png", "dog1.png")}, "there are no photos to train on"),
        ({"instance_prompt": " "}, "1 photos have no caption"),
        ({"model": "SDXL-base-1.0"}, "checkpoints/sd_xl_base_1.0.safetensors"),
        ({"overrides": {LORA + "lora_alpha": "0"}}, "the recipe: lora_alpha is 0"),
        ({"overrides": {PHOTOS + "masks": "{}"}}, "none of the 2 photos has one"),
        ({"flags": {"evaluate_every": "500", "stop_when_learned": "True"}}, "--stop_when_learned True"),
        ({"recipe": "imported.yaml"}, "import it again"),
    ],
)
def test_what_cannot_start_is_one_sentence_and_no_job(studio, draft, changes, words):
    from gm.errors import UserError
    from studio.recipe.starting import start

    draft.change(**changes)
    with pytest.raises(UserError) as refused:
        start(studio, draft)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert sorted(path.name for path in studio.runs.iterdir()) == ["visits"]


def test_a_photo_that_is_broken_is_named_before_the_queue(studio, draft):
    from gm.errors import UserError
    from studio.recipe.starting import start

    (draft.photos / "dog1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="dog1.png"):
        start(studio, draft)


# -- recipes of others --------------------------------------------------------------------------------------


def test_a_recipe_of_another_trainer_becomes_the_drafts(studio, draft):
    from studio.recipe import command
    from studio.recipe.taking_over import report_of

    draft.change(preset="pet", overrides={"data.total_step": "5"})
    report = take_over(studio, draft, ("../../my preset.json", json.dumps(KOHYA)))
    config = command.config_of(studio, draft.settings())
    assert (config.lora["unet"].rank, config.lora["unet"].alpha, config.data.total_step) == (12, 6, 333)
    assert config.data.target_size == 64 and draft.settings().flags["seed"] == "9" and draft.settings().preset == ""
    assert next(row.outcome for row in report.rows if row.name == "no_such_setting") == "unknown"
    assert report_of(draft) == report
    take_over(studio, draft, ("my.json", json.dumps(KOHYA)), own_size=False)
    assert command.config_of(studio, draft.settings()).data.target_size == 1024


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.exe", "x", "a.exe is no recipe: give a file that ends in .json"),
        ("a.json", "{", "a.json is not JSON"),
        ("a.json", "{}", "of no trainer that is known here"),
        ("a.toml", "x = " * 9, "a.toml is not TOML"),
        ("a.txt", "python sdxl_train_network.py --config_file=/etc/passwd", "the command reads /etc/passwd"),
        ("a.json", json.dumps({**KOHYA, "network_alpha": 0, "network_dim": 0}), "a.json"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(studio, draft, name, text, words):
    from gm.errors import UserError

    before = draft.settings()
    with pytest.raises(UserError) as refused:
        take_over(studio, draft, (name, text))
    assert words in str(refused.value) and "/tmp" not in str(refused.value)
    assert draft.settings() == before and not (draft.folder / "imported.yaml").exists()


def test_an_import_reads_no_file_that_a_recipe_names(studio, draft, tmp_path):
    """OneTrainer's concepts may name a file with prompts: not one of this machine."""
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret words")
    concept = {"name": "dog", "path": str(tmp_path), "enabled": True, "type": "STANDARD"}
    concept["text"] = {"prompt_source": "concept", "prompt_path": str(secret)}
    recipe = {"training_method": "LORA", "model_type": "STABLE_DIFFUSION_XL_10_BASE", "epochs": 3, "concepts": [concept]}
    report = take_over(studio, draft.__class__(draft.folder), ("one.json", json.dumps(recipe)))
    kept = [path.read_text() for path in draft.folder.glob("*.*") if path.suffix in (".json", ".yaml")]
    assert report.tool == "OneTrainer" and "secret" not in " ".join(kept)


def test_the_yaml_of_a_run_is_a_recipe(studio, draft):
    """Without its networks and photos."""
    from gm.config.load import load_config
    from gm.config.yaml_text import read_yaml
    from studio.recipe.taking_over import _parts_of

    raw = load_config("configs/recipes/style.yaml", [f"{PHOTOS}concepts=[{{instance_data_path: /etc}}]"]).raw
    parts = _parts_of(read_yaml(raw, ""))
    assert parts["model"]["params"]["network_config"] == {
        "params": {
            **{"lora_targets": "all", "lora_dim": 16, "lora_alpha": 8, "lora_conv_dim": 16, "lora_conv_alpha": 8},
            **{"lora_dropout": 0.0, "lora_merge_weights": False},
        }
    }
    (draft.folder / "imported.yaml").write_text(json.dumps(parts))
    from studio.recipe import command

    settings = draft.change(recipe="imported.yaml", overrides={PHOTOS + "target_size": "64"})
    assert command.config_of(studio, settings).optim.optimizer == "Prodigy"
