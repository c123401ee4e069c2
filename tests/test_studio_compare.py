"""The part Results of the page: comparing LoRA side by side by a workshop that draws nothing, taking one along; and both languages."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import recorded_runs
import results_page
import tiny
from gm.checkpoint.lora_export import write_lora
from gm.checkpoint.lora_files import open_lora
from gm.config.load import load_config
from gm.errors import UserError
from results_page import (
    SMALL,
    VISIT,
    WEIGHT,
    best_of,
    checked,
    errors,
    labelled,
    make_lora,
    named,
    photos_of,
    pictures,
    refused,
    texts,
)

made, runs, jobs, workshop, page = (getattr(results_page, name) for name in results_page.FIXTURES)


# -- comparing -----------------------------------------------------------------------------------------------------------------


def test_pictures_side_by_side(page, runs, workshop):
    """Made once, seen while they are made, kept over a reload, and not made again."""
    shown = page(results_view="compare")
    assert labelled(shown.multiselect, "Steps of dog").value == [best_of(runs)]
    labelled(shown.text_area, "Prompt").set_value("a sks dog\nin the snow").run()
    labelled(shown.multiselect, "Steps of dog").set_value([500, 100]).run()
    labelled(shown.multiselect, "Strengths").set_value([0.5, 1.0]).run()
    labelled(shown.number_input, "Seeds").set_value(2).run()
    assert "10 pictures." in texts(shown)  # 2 seeds of the base model and of 2 steps with 2 strengths
    checked(shown.button(key="results_make").click().run())
    task = workshop.task(VISIT, "compare")
    assert len(task.wanted) == 10 and task.folder == runs / "visits" / VISIT / "compare"
    assert {one.prompt for one in task.wanted} == {"a sks dog in the snow"} and {one.num_cols for one in task.wanted} == {1}
    assert {(one.weight, one.lora_scale) for one in task.wanted} == {
        (WEIGHT, None),
        *((f"{WEIGHT},{runs / 'dog' / named(step)}", (scale,)) for step in (100, 500) for scale in (0.5, 1.0)),
    }
    assert [one.seed for one in task.wanted] == [42] * 5 + [43] * 5
    assert shown.button(key="results_make").disabled and "10 of 10 pictures are not there." in texts(shown)

    task.draw(3)
    again = page(results_view="compare")  # somebody loads the page anew
    assert "7 of 10 pictures are not there." in texts(again) and pictures(again) == 1  # the base model's
    assert labelled(again.text_area, "Prompt").value == "a sks dog\nin the snow"
    assert labelled(again.multiselect, "Steps of dog").value == [100, 500]
    task.draw(7)
    checked(again.run())
    assert pictures(again) == 4 and "are not there" not in texts(again)
    before = shown_files(runs)
    labelled(again.select_slider, "Step of dog").set_value(100).run()
    labelled(again.select_slider, "Strength").set_value(0.5).run()
    assert "dog · step 100, strength 0.5" in texts(again) and shown_files(runs) == before

    workshop.made.clear()  # the server was started anew
    later = page(results_view="compare")
    assert pictures(later) == 4
    labelled(later.multiselect, "Strengths").set_value([0.5, 1.0, 1.5]).run()
    later.button(key="results_make").click().run()
    assert [one.lora_scale for one in workshop.task(VISIT, "compare").wanted] == [(1.5,)] * 4  # the others are there
    assert pictures(page(visit="ba9876543210", results_view="compare")) == 0  # somebody else sees none of it


def shown_files(runs: Path) -> list[str]:
    return sorted(path.name for path in (runs / "visits" / VISIT / "compare").iterdir())


def test_the_base_model_is_without_the_lora_that_the_page_was_started_with(page, runs, workshop):
    own = f"{WEIGHT},{runs / 'dog' / named(100)}"
    shown = page(argv=("--config", SMALL, "--weight", own, "--height", "64", "--width", "64"), results_view="compare")
    checked(shown.button(key="results_make").click().run())
    assert [one.weight for one in workshop.task(VISIT, "compare").wanted] == [
        WEIGHT,
        f"{WEIGHT},{runs / 'dog' / named(best_of(runs))}",
    ]


def test_stopping_and_what_went_wrong(page, workshop):
    shown = page(results_view="compare")
    shown.button(key="results_make").click().run()
    task = workshop.task(VISIT, "compare")
    task.draw(1)
    checked(shown.run())
    (bar,) = shown.get("progress")
    assert bar.proto.value == 25 and bar.proto.text.replace("\\", "") == "picture 1 of 3 · 2 min left"
    shown.button(key="results_stop").click().run()
    assert task.stopped and pictures(checked(shown.run())) == 1
    assert not [one for one in shown.button if one.key == "results_stop"]
    task.sentence = "step 1 of 20 gave numbers that are not finite"
    assert errors(shown.run()) == [task.sentence]


def test_what_cannot_be_compared_is_one_sentence(page, runs, workshop):
    recorded_runs.unpack("tiny", runs / "of_sdxl")
    os.utime(runs / "of_sdxl" / named(20), (2, 2))
    shown = page(results_view="compare", results_run="dog")
    for label, value, words in (
        ("LoRA", [], "no LoRA is chosen"),
        ("Steps of dog", [], "no step of dog is chosen"),
        ("Strengths", [], "no strength is chosen"),
        ("Prompt", "  ", "the prompt is empty"),
        ("Prompt", "x" * 9000, "9000"),
        ("First seed", -5, "First seed: give a whole number from 0 to"),
        ("Seeds", 100, "Seeds: give a whole number from 1 to 4"),
        ("Sampling steps", 0, "Sampling steps: give a whole number from 1 to"),
        ("LoRA", ["dog", "of_sdxl"], "give a LoRA that was trained on SDXL"),
    ):
        refused(shown, label, value, "results_make", words)
    assert not workshop.made


def test_too_many_pictures_are_one_sentence(runs):
    from studio.results.comparison import Comparison

    of = Comparison(prompt="a dog", runs={"dog": (100, 200, 300, 400, 500)}, strengths=(0.5, 0.7, 1.0), seeds=4)
    assert of.count == len(of.planned) == 64
    with pytest.raises(UserError, match="these are 64 pictures, more than 60 at once"):
        of.check()


def test_a_lora_that_was_written_anew_is_drawn_anew(runs):
    from sampling import MODELS
    from studio.access import PageOptions
    from studio.results.comparison import Comparison, with_keys
    from studio.results.lora import options_of
    from studio.results.saved import saved_runs
    from studio.visit import Studio

    studio = Studio(PageOptions(runs=runs), {}, [], VISIT)
    wanted = Comparison(prompt="a dog", runs={"dog": (100,)})

    def keys():
        return [one.key for one in with_keys(wanted, options_of(studio, MODELS[0]), saved_runs(runs), studio)[0].cells]

    before = keys()
    assert keys() == before and len(set(before)) == 2
    make_lora(runs / "dog" / named(100), 100, size=2e-3)
    assert keys()[0] == before[0] and keys()[1] != before[1]


# -- taking along ----------------------------------------------------------------------------------------------------------------


def test_a_lora_in_the_layout_of_another_tool(page, runs):
    """What is downloaded is what tools/export_lora.py writes."""
    shown = page(results_view="export")
    labelled(shown.select_slider, "After so many updates").set_value(200).run()
    assert "Trigger prompt: A photo of a sks dog" in texts(shown) and "LoRA of rank 4 and alpha 2 in" in texts(shown)
    labelled(shown.selectbox, "Layout").set_value("peft").run()
    checked(shown.button(key="results_write").click().run())
    (written,) = (runs / "visits" / VISIT / "exports").iterdir()
    assert written.name == "dog_step200_peft_float32.safetensors"
    model = load_config(SMALL, training=False).model
    with open_lora(runs / "dog" / named(200), model) as native, open_lora(written, model) as other:
        assert other.layout == "peft" and list(other.modules) == list(native.modules)
        module = next(iter(native.modules))
        assert np.allclose(native.update(module), other.update(module), rtol=1e-5, atol=1e-9)
        beside = runs.parent / written.name
        write_lora(native, beside, "peft", "float32", None, model)
    with open_lora(beside, model) as expected, open_lora(written, model) as other:
        dates = ("modelspec.date",)
        assert all(text == other.metadata[key] for key, text in expected.metadata.items() if key not in dates)
    labels = [one.proto.label for one in shown.get("download_button")]
    assert labels == ["Download dog_step200.ckpt", f"Download {written.name}"]
    labelled(shown.selectbox, "Numbers").set_value("float16").run()
    assert len(shown.get("download_button")) == 1  # what was written is not what is asked for now


def test_a_large_file_is_read_when_it_is_asked_for(page, runs, monkeypatch):
    page()  # imports it
    monkeypatch.setattr(sys.modules["studio.results.export"], "LARGE", 10)
    shown = page(results_view="export")
    assert not shown.get("download_button")
    shown.button(key="results_read").click().run()
    assert [one.proto.label for one in shown.get("download_button")] == [f"Download dog_step{best_of(runs)}.ckpt"]


def test_a_lora_goes_to_the_sampling_page(page, runs):
    shown = page(results_view="export", results_run="cat/of_today")
    assert shown.query_params["view"] in ("export", ["export"]) and shown.query_params["run"] in (
        "cat/of_today",
        ["cat/of_today"],
    )
    shown.button(key="results_send").click().run()
    state = shown.session_state
    assert state["part"] == "sampling" and state["sampling_lora"] == [str(runs / "cat" / "of_today" / named(20))]
    assert state["sampling_prompt"] == "A photo of a sks cat" and state["sampling_model"] == "Small SDXL"


def test_a_lora_that_cannot_be_read_is_one_sentence(page, runs):
    (runs / "cat" / "of_today" / named(20)).write_bytes(b"torn")
    for view in ("checkpoints", "compare", "export"):
        shown = page(results_view=view, results_run="cat/of_today")
        assert len(errors(shown)) == (view == "export"), errors(shown)


# -- all of it -------------------------------------------------------------------------------------------------------------------


def test_in_chinese_nothing_is_said_in_english(page, runs, monkeypatch, workshop):
    from studio import words

    photos_of(runs)
    monkeypatch.setattr(words, "is_chinese", lambda: True)
    for view in ("checkpoints", "compare", "export"):
        shown = page(results_view=view)
        assert not shown.error
        labels = [one.label for kind in (shown.button, shown.selectbox, shown.multiselect, shown.number_input) for one in kind]
        labels += [one.value for one in shown.subheader]
        assert labels and all(any("\u4e00" <= letter for letter in label) for label in labels if label != "LoRA"), labels


def test_the_part_does_not_import_mindspore():
    code = (
        "import sys; sys.path[:0] = ['.', 'demo']; import studio.results as r; "
        "print('mindspore' in sys.modules, 'matplotlib' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "False"], told
