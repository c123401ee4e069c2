"""The part "recipe" as a visitor has it: fields, topics, mistakes, an import, the start."""

import json

import pytest

from recipe_draft import KOHYA, LORA, OPTIMIZER, PHOTOS, ROOT, draft, mask_one, studio, take_over  # noqa: F401  fixtures

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


def test_the_page_in_chinese(request, studio, draft, monkeypatch):
    from studio import words
    from studio.recipe import flags

    for module in (flags, words):
        monkeypatch.setattr(module, "is_chinese", lambda: True)
    page = request.getfixturevalue("page")
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
