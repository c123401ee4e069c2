"""The part Results of the page: finding runs, the chooser's words and curves, scoring as a job."""

import json
import shutil

import numpy as np
import pytest

import recorded_runs
import results_page
import tiny
from gm.config.load import load_config
from results_page import (
    PROMPT,
    VISIT,
    WEIGHT,
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


# -- runs --------------------------------------------------------------------------------------------------------------------


def test_runs_are_found_where_they_may_be_and_nowhere_else(runs):
    from studio.results.saved import saved_runs

    for folder in ("visits/0123456789ab/exports", "class_images/a", "dog/progress", ".queue", "cat/of_today/deeper"):
        make_lora(runs / folder / named(1), 1)
    outside = runs.parent / "outside"
    make_lora(outside / named(1), 1)
    (runs / "link").symlink_to(outside)
    (runs / "empty").mkdir()
    assert list(saved_runs(runs)) == ["dog", "cat/of_today"]  # the newest first
    found = saved_runs(runs)["dog"]
    assert list(found.loras) == [100, 200, 300, 400, 500] and found.prompt == PROMPT and found.nearest(7) == 500
    make_lora(runs / named(9), 9)  # --save_path runs
    (runs / "torn").mkdir()
    (runs / "torn" / named(30)).write_bytes(b"torn")
    make_lora(runs / "dog" / named(600), 600)
    again = saved_runs(runs)
    assert set(again) == {".", "dog", "cat/of_today", "torn"} and again["dog"].last == 600 and again["torn"].last == 30


def test_a_file_that_leads_out_of_a_run_is_not_read(runs):
    from studio.results.saved import saved_runs

    secret = runs.parent / "secret.txt"
    secret.write_text("secret")
    (runs / "dog" / "data.png").symlink_to(secret)
    run = saved_runs(runs)["dog"]
    assert run.file("data.png") is None and run.file("diagnosis.txt") and run.file("nothing") is None


def test_the_model_of_a_run(runs):
    from sampling import MODELS
    from studio.access import PageOptions
    from studio.results.lora import model_of
    from studio.results.saved import saved_runs
    from studio.visit import Studio

    def name(run, *argv):
        known = {model.name: model for model in MODELS}
        model = model_of(Studio(PageOptions(runs=runs), known, argv, VISIT), saved_runs(runs)[run])
        return model and model.name

    assert name("dog") == "Small SDXL" == name("cat/of_today")  # by its config.yaml, by its LoRA
    (runs / "dog" / "config.yaml").write_text(load_config("configs/inference/sd_xl_base.yaml", training=False).raw)
    assert name("dog") == "SDXL-base-1.0"
    assert name("dog", "--config", str(tiny.INFERENCE), "--weight", "tiny.ckpt") is None  # the only model of that page
    (runs / "dog" / "config.yaml").write_text("no YAML of ours")
    assert name("dog") == "Small SDXL"


# -- how it went ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["good", "short", "low", "other_word", "high", "prodigy", "without_prior"])
def test_every_reason_of_the_chooser_has_words(name, runs, monkeypatch):
    """In Chinese nothing of the English sentence is left."""
    from studio import words
    from studio.results.curves import course_of
    from studio.results.reasons import in_words
    from studio.results.saved import Saved

    folder = recorded_runs.unpack(name, runs / name)
    course = course_of(Saved(name, folder, {}, "", 0.0))
    assert in_words(course.choice.reason)
    monkeypatch.setattr(words, "is_chinese", lambda: True)
    assert not any("a" <= letter <= "z" for letter in in_words(course.choice.reason)), course.choice.reason
    assert in_words("something new") == "something new"


def test_what_curves_show(runs):
    from studio.results import curves
    from studio.results.saved import saved_runs

    run = saved_runs(runs)["dog"]
    records = curves.records_of(run)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert len(records) <= curves.MOST + 1 and records[-1]["step"] == json.loads(lines[-1])["step"]
    drawn = curves.losses(records)["layer"][0]["data"]["values"]
    assert {one["kind"] for one in drawn} == {"photos", "class images"}
    mean = np.mean([json.loads(line)["instance_loss"] for line in lines[:1]])
    assert drawn[0]["value"] == pytest.approx(mean)
    course = curves.course_of(run)
    panels = curves.panels(course)
    score = panels["Score: higher is better"]["layer"]
    assert [one["step"] for one in score[0]["data"]["values"]] == [0, *(one.step for one in course.steps)]
    assert [one["step"] for one in score[-1]["data"]["values"]] == [course.choice.step]
    assert "Subject fidelity: higher is better" in panels


def test_the_checkpoints_of_a_run(page, runs):
    shown = page()
    chosen = json.loads((runs / "dog" / "evaluation" / "checkpoints.json").read_text())["choice"]
    assert f"Take step {chosen['step']}: score {chosen['score']:.3f}" in texts(shown)
    assert "All went *well*." in [one.value for one in shown.text]
    assert len(shown.get("arrow_vega_lite_chart")) + len(shown.get("vega_lite_chart")) >= 6
    slider = labelled(shown.select_slider, "After so many updates")
    assert slider.options == ["100", "200"] and slider.value == 200
    assert pictures(shown) == 2
    checked(slider.set_value(100).run())
    labelled(shown.selectbox, "Run").set_value("cat/of_today").run()
    assert "A photo of a sks cat" in texts(shown) and "This run drew no pictures" in texts(shown)
    assert shown.session_state["results_run"] == "cat/of_today"
    shown.session_state["results_run"] = "dog"  # as another part asks for it
    assert labelled(checked(shown.run()).selectbox, "Run").value == "dog"


def test_figures_that_cannot_be_read_are_one_sentence(page, runs):
    (runs / "dog" / "evaluation" / "checkpoints.json").write_text("{")
    shown = page()
    assert len(errors(shown)) == 1 and "is not what this suite has written" in errors(shown)[0]
    assert "All went *well*." in [one.value for one in shown.text]  # the rest is there


def test_without_runs_the_page_says_where_to_begin(page, runs):
    shutil.rmtree(runs)
    shown = page()
    assert "No run has saved a LoRA yet" in texts(shown)
    shown.button(key="results_to_photos").click().run()
    assert shown.session_state["part"] == "photos"


def test_a_name_in_the_address_is_one_of_the_runs(page):
    shown = page(results_run="../../../etc")
    assert labelled(shown.selectbox, "Run").value == "dog" and not shown.error


# -- scoring -------------------------------------------------------------------------------------------------------------------


def test_scoring_is_a_job(page, runs, jobs):
    photos = photos_of(runs)
    shown = page()
    assert labelled(shown.text_input, "Folder of the photos").value == str(photos)
    assert labelled(shown.text_input, "What the prompt calls the subject").value == "sks dog"
    assert "240 pictures are drawn" in texts(shown)  # 5 checkpoints and the base, 5 prompts and the class, 4 seeds
    checked(shown.button(key="results_score").click().run())
    (job,) = jobs
    assert job.words[0] == "tools/evaluate.py" and job.device == "CPU" and job.folder.name == "score_dog"
    from gm.options.evaluate import parse_evaluate

    options = parse_evaluate(job.words[1:])
    assert options.checkpoints == runs / "dog" and options.weight == WEIGHT and options.features == "judge"
    assert (options.subject, options.class_prompt, options.subject_photos) == ("sks dog", "A photo of a dog", str(photos))
    assert "The scoring waits for its turn." in texts(shown) and not shown.text_input
    shown.button(key="results_see_job").click().run()
    assert shown.session_state["part"] == "run" and shown.query_params["job"] in ("score_dog", ["score_dog"])
    job.phase, job.sentence = "failed", "the disk is full"
    shown.session_state["part"] = "results"
    shown.run()
    assert "The last scoring did not come to its end. the disk is full" in texts(shown) and shown.button(key="results_score")


def test_what_cannot_be_scored_is_one_sentence(page, runs, jobs):
    photos_of(runs)
    shown = page()
    for label, value, words in (
        ("Folder of the photos", "/etc", "'/etc' is outside of the folders of this page"),
        ("Folder of the photos", " ", "the folder of the photos is empty"),
        ("Folder of the photos", str(runs / "dog" / "progress" / ".."), "holds no"),
        ("What the prompt calls the subject", "", "the subject or the prompt of its class is empty"),
        ("Pictures of each prompt", 0, "Pictures of each prompt: give a whole number from 1 to 16"),
    ):
        refused(shown, label, value, "results_score", words)
    assert not jobs


def test_photos_are_not_scored_by_the_judge(page, runs):
    (runs / "dog" / "config.yaml").write_text(load_config("configs/inference/sd_xl_base.yaml", training=False).raw)
    shown = page()
    assert "The judge that comes with the project knows the drawn world alone" in texts(shown)
    assert any("--features tools/features/clip_dino.py" in one.value for one in shown.code)
