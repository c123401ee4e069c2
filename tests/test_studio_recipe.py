"""The part "recipe" of the page: settings become YAML and command, wrong ones a sentence, foreign recipes ours."""

import ast
import json
import shutil
import string
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "demo" / "studio" / "recipe"
OPTIMIZER = "optim.optimizer_config.target"
LORA = "model.params.network_config.params."
PHOTOS = "data.dataset_config.params."


@dataclass(frozen=True)
class FakeJob:
    folder: Path
    words: tuple[str, ...]
    device: str


def fake_add(runs, name, prepare, device, at_once=1):
    """As gm.jobs.control.add, but nothing runs."""
    folder = runs / name
    folder.mkdir(parents=True)
    try:
        return FakeJob(folder, tuple(prepare(folder)), device)
    except BaseException:
        shutil.rmtree(folder)
        raise


@pytest.fixture
def studio(tmp_path, monkeypatch):
    """A visitor's studio with the models of the page."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "demo"))
    control, job, package = (types.ModuleType(f"gm.jobs{name}") for name in (".control", ".job", ""))
    control.__dict__["add"], job.__dict__["Job"] = fake_add, FakeJob
    for module in (control, job, package):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "studio.recipe.starting", raising=False)
    from sampling import MODELS
    from studio.access import PageOptions
    from studio.visit import Studio

    yield Studio(PageOptions(runs=tmp_path / "runs"), {model.name: model for model in MODELS}, (), "a" * 12)
    sys.modules.pop("studio.recipe.starting", None)


@pytest.fixture
def draft(studio):
    """With two photos, of which one has a caption, and prompts, for the CPU."""
    from studio.recipe import command

    made = command.draft_of(studio)
    made.photos.mkdir(parents=True)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (80, 100, 3), np.uint8)
        Image.fromarray(pixels).save(made.photos / f"dog{number}.png")
    (made.photos / "dog0.txt").write_text("a sks dog on grass")
    made.change(device="CPU", instance_prompt="a photo of a sks dog", class_prompt="a photo of a dog")
    return made


def mask_one(draft) -> None:
    Image.new("L", (100, 80), 255).save(draft.photos / "dog1-masklabel.png")


def flag(words, name) -> Optional[str]:
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words else None


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

KOHYA = {
    "LoRA_type": "Standard",
    "sdxl": True,
    "max_resolution": "1024,1024",
    "network_dim": 12,
    "network_alpha": 6,
    "learning_rate": 3e-4,
    "optimizer": "AdamW",
    "max_train_steps": 333,
    "seed": 9,
    "no_such_setting": 5,
}


def take_over(studio, draft, *files, own_size=True) -> Any:
    from studio.recipe.taking_over import take_over as take

    return take(studio, draft, [(name, text.encode()) for name, text in files], own_size)


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


# -- the page -----------------------------------------------------------------------------------------------


def script(root: str, runs: str) -> None:
    """What the page runs for this part alone."""
    import sys
    from pathlib import Path

    sys.path[:0] = [folder for folder in (root, f"{root}/demo") if folder not in sys.path]
    from sampling import MODELS
    from studio.access import PageOptions
    from studio.recipe import render
    from studio.visit import Studio

    render(Studio(PageOptions(runs=Path(runs)), {model.name: model for model in MODELS}, (), "a" * 12))


@pytest.fixture
def page(studio, draft):
    from streamlit.testing.v1 import AppTest  # after MindSpore, which brings its own protobuf code

    app = AppTest.from_function(script, default_timeout=60, kwargs={"root": str(ROOT), "runs": str(studio.runs)})
    return app.run()


def by_key(page, key):
    kinds = (page.text_input, page.number_input, page.checkbox, page.selectbox, page.text_area, page.radio, page.button)
    return next((one for kind in kinds for one in kind if one.key == f"recipe_{key}"), None)


def errors(page) -> list[str]:
    return [error.value.replace("\\", "") for error in page.error]


def topic(page, name):
    page.session_state["recipe_topic"] = name
    return page.run()


def test_the_page_shows_what_it_would_train(page):
    assert not page.exception and not page.error
    yaml, command = (one.value for one in page.code)
    assert "small_dreambooth_lora_cpu.yaml" in yaml and "python train_dreambooth.py" in command
    assert "500 updates with 2 photos each" in page.caption[-1].value.replace("\\", "")
    assert "mindspore" not in {name for name in sys.modules if "gm.training" in name}


def test_a_change_is_kept_and_taken_back(page, draft):
    by_key(page, "data.total_step").set_value(20).run()
    assert draft.settings().overrides == {"data.total_step": "20"} and "--infer_interval 4" in page.code[1].value
    by_key(page, "data.total_step").set_value(500).run()
    assert draft.settings().overrides == {}, "as without it"
    by_key(page, LORA + "lora_dim").set_value(8).run()
    by_key(page, "reset").click().run()
    assert draft.settings().overrides == {} and by_key(page, LORA + "lora_dim").value == 4


@pytest.mark.parametrize(
    "key, text, words",
    [
        ("optim.base_learning_rate", "much", "Learning rate: 'much' is not a number"),
        ("optim.base_learning_rate", "1000", "Learning rate: 1000 is too large: at most 100"),
        (LORA + "lora_alpha", "-1", "Alpha: -1 is too small: at least 0"),
        ("instance_prompt", "x" * 9000, "Prompt of the photos: the prompt has 9000 characters"),
        ("name", "x" * 61, "Name: it has 61 characters"),
    ],
    ids=["no number", "large rate", "small alpha", "long prompt", "long name"],
)
def test_a_wrong_value_is_named_and_not_kept(page, draft, key, text, words):
    before = draft.settings()
    by_key(page, key).set_value(text).run()
    assert [words in error for error in errors(page)] == [True]
    assert draft.settings() == before and by_key(page, key).value == text
    by_key(page, key).set_value("0.5").run()
    assert not page.error and draft.settings() != before


def test_a_wrong_prompt_of_pictures_is_named(page, draft):
    by_key(page, "prompts").set_value("a sks dog --w 65").run()
    assert errors(page) == ["Prompts of the pictures on the way, line 1: width 65 is not a multiple of 16: take 64 or 80"]
    by_key(page, "prompts").set_value("a sks dog --w 64").run()
    assert not page.error and "--infer_prompts" in page.code[1].value


def test_masks_without_masks_are_warned_of(page, draft):
    by_key(page, "preset").set_value("product").run()
    assert "no photo has one" in page.warning[0].value
    mask_one(draft)
    assert not page.run().warning


def test_the_page_in_chinese(page, monkeypatch):
    from studio import words
    from studio.recipe import flags

    for module in (flags, words):
        monkeypatch.setattr(module, "is_chinese", lambda: True)
    topic(page, "updates")
    kinds = (page.text_input, page.number_input, page.checkbox, page.selectbox, page.text_area, page.radio, page.button)
    named = [one for kind in kinds for one in kind]
    plain = [one.label for one in named if one.label.isascii()]
    assert not page.exception and plain == ["Alpha"]
    assert [one.key for one in named if one.proto.help and one.proto.help.isascii()] == []


def test_an_import_is_reset_to_itself(page, studio, draft):
    take_over(studio, draft, ("my.json", json.dumps(KOHYA)))
    page.run()
    assert not page.error and by_key(page, "preset").value == "imported"
    by_key(page, "data.total_step").set_value(20).run()
    by_key(page, "reset").click().run()
    assert draft.settings().overrides == {} and draft.settings().flags["seed"] == "9"
    by_key(page, "preset").set_value("pet").run()
    by_key(page, "preset").set_value("imported").run()
    assert by_key(page, "data.total_step").value == 333 and not page.error


def test_what_does_not_go_together_is_one_sentence(page):
    by_key(page, PHOTOS + "target_size").set_value(65).run()
    assert len(page.error) == 1 and "is not a multiple of 16" in page.error[0].value.replace("\\", "")
    assert by_key(page, "start").disabled


def test_an_optimizer_brings_its_rate_and_its_params(page, draft):
    topic(page, "optimizer")
    assert by_key(page, "optim.optimizer_config.params.d0") is None
    by_key(page, OPTIMIZER).set_value("gm.training.optim.Prodigy").run()
    assert (
        by_key(page, "optim.base_learning_rate").value == "1"
        and by_key(page, "optim.optimizer_config.params.d0").value == "1e-06"
    )
    by_key(page, OPTIMIZER).set_value("gm.training.optim.Adafactor").run()
    assert draft.settings().overrides["optim.base_learning_rate"] == "5e-4" and not page.error
    by_key(page, "optim.optimizer_config.params.relative_step").check().run()
    assert not errors(page) and draft.settings().overrides["optim.base_learning_rate"] == "null"
    by_key(page, OPTIMIZER).set_value("gm.training.optim.AdamW").run()
    assert draft.settings().overrides == {} and not page.error


def test_what_does_not_act_any_more_goes(page, draft):
    by_key(page, "preset").set_value("style").run()
    topic(page, "lora")
    assert by_key(page, LORA + "lora_conv_dim").value == "16"
    by_key(page, LORA + "lora_targets").set_value("linear").run()
    assert not page.error and by_key(page, LORA + "lora_conv_dim") is None
    topic(page, "text")
    by_key(page, "model.params.conditioner_config.params.emb_models.0.is_trainable").check().run()
    by_key(page, "optim.rates.text_encoder_1").set_value("0.5").run()
    assert "Prodigy finds one step size" in errors(page)[0]
    by_key(page, "model.params.conditioner_config.params.emb_models.0.is_trainable").uncheck().run()
    assert not errors(page) and "optim.rates.text_encoder_1" not in draft.settings().overrides


def test_every_topic_is_shown_without_a_mistake(page):
    from studio.recipe.topics import TOPICS

    for name in TOPICS:
        topic(page, name)
        assert not page.exception and not page.error, name


def test_a_start_shows_the_run(page, studio):
    by_key(page, "start").click().run()
    assert not page.error and page.session_state["part"] == "run"
    assert (
        "a_photo_of_a_sks_dog" in page.query_params["job"] and (studio.runs / "a_photo_of_a_sks_dog" / "recipe.yaml").exists()
    )


def test_a_start_that_fails_says_why(page, draft):
    draft.change(excluded=("dog0.png", "dog1.png"))
    by_key(page, "start").click().run()
    assert ["there are no photos to train on" in error.value for error in page.error] == [True]


# -- words --------------------------------------------------------------------------------------------------


def literals() -> set[str]:
    """What the files of this part say by `say` and `later`."""
    calls = [
        node for path in RECIPE.glob("*.py") for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    said = [one for one in calls if isinstance(one.func, ast.Name) and one.func.id in ("say", "later")]
    return {one.args[0].value for one in said if isinstance(one.args[0], ast.Constant)}


def places(text: str) -> set:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_everything_is_said_in_chinese_too(studio):
    from studio.recipe import flags
    from studio.words.recipe import CHINESE
    from studio.words.recipe_flags import HELP

    assert literals() == set(CHINESE)
    assert [text for text in CHINESE if places(text) != places(CHINESE[text])] == []
    offered = {name for names in flags.GROUPS.values() for name in names}
    assert offered == set(HELP) == set(flags.LABELS) == set(flags.known())


def test_every_offered_key_is_one_of_the_table(studio, draft):
    """With the targets that it acts with."""
    from studio.recipe import command
    from studio.recipe.fields import entry_of
    from studio.recipe.topics import ALL
    from studio.recipe.tree import TRAINS_TEXT

    optimizers = ("AdamW", "Prodigy", "Adafactor")
    schedules = ("Cosine", "CosineRestarts", "Polynomial")
    weightings = ("MinSNRWeighting", "EDMWeighting", "EpsWeighting")
    seen = set()
    for optimizer, schedule, weighting in zip(optimizers, schedules, weightings):
        overrides = {
            OPTIMIZER: f"gm.training.optim.{optimizer}",
            "optim.scheduler_config.target": f"gm.training.optim.{schedule}",
            "model.params.denoiser_config.params.weighting_config.target": (
                f"gm.modules.diffusionmodules.denoiser_weighting.{weighting}"
            ),
            **dict.fromkeys(TRAINS_TEXT, "True"),
        }
        tree = command.whole_tree(studio, draft.change(overrides=overrides))
        seen |= {key for field in ALL for key in field.keys if entry_of(key, tree) is not None}
    assert {key for field in ALL for key in field.keys} == seen
