"""What is said of a run: every rule on every recorded run (recorded_runs.py), each of which has one fault or none; and the command,
whatever the folder holds."""

import json
import math
import random
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

import recorded_runs
from gm.training.diagnosis.facts import CONFIG, EVALUATION, METRICS, TIMINGS, Facts, read_facts
from gm.training.diagnosis.paragraph import FILE, RULES, diagnose, findings, write_diagnosis
from gm.training.diagnosis.updates import change
from tools import diagnose as command

# recorded run -> the rules that speak of it, and words of what they say
FIRES = {
    "good": {},
    "quickstart": {},
    "learning": {},
    "tiny": {},
    "high": {"rate_too_high": ["from 0.11 to 1 (a network", "--set optim.base_learning_rate=0.006"]},
    "prodigy": {
        "rate_too_high": ["gradient went from 0.022 to 0.99", "optim.optimizer_config.params.d_coef=0.3"],
        "prompt_lost": ["prompt fidelity fell from 1.00 to 0.24 while subject fidelity rose from 0.28 to 0.49"],
        "past_the_best": ["take step 100, with a score of 0.64 against 0.38"],
    },
    "low": {"rate_too_low": ["41% of the way", "B, which begins at 0, is 28% of its A", "base_learning_rate=0.001"]},
    "prodigy_stuck": {"prodigy_stuck": ["from 1e-06 to 4.6e-06", "leave growth_rate away"]},
    "warm_up": {"in_warm_up": ["at 8e-05 of 0.002", "warmup_steps=4,"]},
    "short": {"too_few_updates": ["47% of the way", "10% of it since 40", "--set data.total_step=120"]},
    "without_prior": {
        "class_drift": ["PRES rose from 0.25 to 0.90, without class images", "--prior_loss_weight 1"],
        "past_the_best": ["take step 100, with a score of 0.60 against 0.47 of the last (after 100 the subject gains 0.14"],
    },
    "other_word": {"hardly_learned": ["2% of the way", "--instance_prompt"]},
    "long": {"seen_often": ["each of 5 photos was trained on 800 times"]},
    "uneven": {"uneven_subjects": ["'60_sks dog' has 240 samples", "give '1_zwx cat' 240 repeats"]},
    "overflow": {
        "not_finite": ["18 updates", "6 of them in the second half", "begin with --loss_scale 4194304"],
        "time_elsewhere": ["compilation took 97 of 148 seconds", "--compile_cache_dir FOLDER"],
    },
    "clipped": {"clipped": ["96% of the gradients were clipped to 0.005", "--max_grad_norm 0.05"]},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("recorded")
    return {name: recorded_runs.unpack(name, folder / name) for name in recorded_runs.NAMES}


def test_every_rule_has_a_run_with_its_fault():
    assert set(recorded_runs.NAMES) == set(FIRES)
    by_hand = {"unfinished", "memory_unused"}  # below
    assert {rule.__name__ for rule in RULES} == by_hand | {name for fires in FIRES.values() for name in fires}


@pytest.mark.parametrize("name", FIRES)
def test_which_rules_speak_of_which_run(folders, name):
    found = findings(read_facts(folders[name]))
    assert set(found) == set(FIRES[name]), found
    for rule, words in FIRES[name].items():
        for one in words:
            assert one in found[rule], found[rule]


@pytest.mark.parametrize("name", FIRES)
def test_the_paragraph_is_one_line_of_sentences(folders, name):
    text = diagnose(read_facts(folders[name]))
    assert text.isprintable() and text.endswith(".") and len(text) < 2000 and "nan" not in text and "None" not in text
    assert ("looks well" in text) == (not FIRES[name])


OF_EVALUATIONS = {"hardly_learned", "too_few_updates", "class_drift", "prompt_lost", "past_the_best"}
OF_RECORDS = {"not_finite", "rate_too_high", "prodigy_stuck", "in_warm_up"}


@pytest.mark.parametrize("name", FIRES)
def test_less_is_said_where_less_is_known(folders, tmp_path, name):
    facts = read_facts(folders[name])
    assert set(findings(replace(facts, evaluation=None))) == set(FIRES[name]) - OF_EVALUATIONS
    (tmp_path / METRICS).write_bytes((folders[name] / METRICS).read_bytes())
    assert set(findings(read_facts(tmp_path))) == set(FIRES[name]) & OF_RECORDS


def test_the_option_is_that_of_the_optimizer(folders):
    """The words of a rule for other settings than those of the recorded run."""
    high, stuck, bad = (read_facts(folders[name]) for name in ("high", "prodigy_stuck", "overflow"))
    optim = high.config.optim
    relative = replace(optim, optimizer="Adafactor", adafactor=replace(optim.adafactor, relative_step=True))
    assert "relative_step: False" in findings(replace(high, config=replace(high.config, optim=relative)))["rate_too_high"]
    assert (
        "with --set optim.base_learning_rate"
        in findings(replace(high, config=None, rates=high.rates * np.nan))["rate_too_high"]
    )

    optim = stuck.config.optim
    for changed, words in (
        ({"growth_rate": None}, "params.d0=0.0001"),
        ({"growth_rate": None, "d_coef": 0.1}, "params.d_coef=1"),
    ):
        config = replace(stuck.config, optim=replace(optim, prodigy=replace(optim.prodigy, **changed)))
        assert words in findings(replace(stuck, config=config))["prodigy_stuck"]

    static = findings(replace(bad, scales=np.full_like(bad.scales, 1024.0)))["not_finite"]
    assert "at a loss scale of 1024: give --loss_scale_type dynamic, or --loss_scale 64" in static
    assert (
        "lower the rate, --set optim.base_learning_rate=0.0002"
        in findings(replace(bad, scales=bad.scales * 0 + 1))["not_finite"]
    )
    early = replace(bad, skipped=np.minimum(bad.skipped, bad.skipped[19]))  # while a dynamic scale was finding its value
    assert "not_finite" not in findings(early)


# -- what no recorded run can have -----------------------------------------------------------------------------------


def test_a_run_that_was_killed(folders, tmp_path):
    """As it lies there: no timings.json, and the last line of the records half written."""
    folder = recorded_runs.unpack("good", tmp_path)
    (folder / TIMINGS).unlink()
    lines = (folder / METRICS).read_text().splitlines(keepends=True)
    (folder / METRICS).write_text("".join(lines[:312]) + lines[312][:40])
    facts = read_facts(folder)
    assert facts.updates == 312 and facts.damaged == 1 and set(findings(facts)) == {"unfinished"}
    text = diagnose(facts)
    assert (
        text.startswith("After 312 of 500 updates (damaged lines of the records, left out: 1): ") and "--resume True" in text
    )
    (folder / TIMINGS).write_text("{}")  # nothing of it can be read
    assert "unfinished" in findings(read_facts(folder))


def test_memory_of_a_device(folders):
    """Figures that an H100 had with recompute and without, 1024 pixels (bench/memory.md): 20.7 and 61.5 of 85 GB."""
    facts = read_facts(folders["good"], device_gb=85.0)
    assert "memory_unused" not in findings(facts)  # a CPU has no memory of its own
    assert "memory_unused" not in findings(replace(facts, peak_gb=61.5))
    roomy = replace(facts, peak_gb=20.7)
    assert findings(roomy)["memory_unused"] == (
        "21 of 85 GB of the device's memory were used: data.per_batch_size could be 6 instead of 2, for more samples an update"
    )
    accumulated = replace(roomy, said={**facts.said, "ss_gradient_accumulation_steps": "4"})
    assert (
        "data.per_batch_size=4 with --gradient_accumulation_steps 2 gives the same" in findings(accumulated)["memory_unused"]
    )
    assert not findings(replace(roomy, device_gb=None))


def figures(subject: float, prompt: float = 1.0, pres: float = 0.3) -> dict:
    return {"subject": subject, "prompt": prompt, "recognised": 1.0, "pres": pres, "div": None, "div_subject": None}


def evaluated(folder, *points: tuple, choice=None) -> Facts:
    """The good run, with these (step, figures, score) in its evaluation."""
    steps = [{"step": step, "figures": found, "score": score, "seconds": 1.0} for step, found, score in points]
    content = {"real": figures(1.0), "base": figures(0.3), "steps": steps, "choice": choice, "settings": {}}
    (folder / EVALUATION).parent.mkdir(exist_ok=True)
    (folder / EVALUATION).write_text(json.dumps(content))
    return read_facts(folder)


def test_a_checkpoint_from_before_was_better(tmp_path):
    folder = recorded_runs.unpack("good", tmp_path)
    points = (100, figures(0.6), 0.6), (300, figures(0.8), 0.8), (500, figures(0.82, 0.95), 0.74)
    choice = {"step": 300, "score": 0.8, "reason": "after 300 the subject gains 0.02"}
    found = findings(evaluated(folder, *points, choice=choice))
    assert set(found) == {"past_the_best"}
    assert found["past_the_best"] == (
        "take step 300, with a score of 0.80 against 0.74 of the last (after 300 the subject gains 0.02)"
    )
    assert not findings(evaluated(folder, *points[:2], (500, figures(0.82), 0.79), choice=choice))  # no more than chance
    assert not findings(evaluated(folder, *points, choice=None))


def test_what_was_lost_names_the_last_checkpoint_that_had_it(tmp_path):
    folder = recorded_runs.unpack("good", tmp_path)
    drifted = (100, figures(0.6), 0.6), (300, figures(0.8, pres=0.5), 0.7), (500, figures(0.82, pres=0.8), 0.66)
    assert findings(evaluated(folder, *drifted)) == {
        "class_drift": "the class has turned into the subject: PRES rose from 0.30 to 0.80: give --prior_loss_weight 2, or take step "
        "300, with 0.50"
    }
    lost = (100, figures(0.6), 0.6), (300, figures(0.8, 0.95), 0.7), (500, figures(0.82, 0.7), 0.66)
    assert "take step 300, where it was 0.95, or train no longer" in findings(evaluated(folder, *lost))["prompt_lost"]
    at_once = findings(evaluated(folder, (500, figures(0.82, 0.7), 0.66)))["prompt_lost"]
    assert "at a lower rate, --set optim.base_learning_rate=0.0006, and name the places in captions" in at_once


def test_figures_of_later_updates_than_the_run_has_are_of_another_run(tmp_path):
    folder = recorded_runs.unpack("good", tmp_path)
    assert evaluated(folder, (600, figures(0.1), 0.0)).evaluation is None
    assert evaluated(folder, (500, figures(0.9), 0.9), (600, figures(0.1), 0.0)).evaluation.last.step == 500


# -- the numbers -----------------------------------------------------------------------------------------------------


def test_the_change_of_a_curve_is_welchs_t():
    from scipy.stats import ttest_ind

    values = np.exp(np.random.default_rng(0).standard_normal(200))
    values[::7] = math.nan
    logs = np.log(values[np.isfinite(values)])
    size = len(logs) // 5
    found, expected = change(values), ttest_ind(logs[-size:], logs[:size], equal_var=False)
    assert found.sure == pytest.approx(expected.statistic)
    assert found.before == pytest.approx(np.exp(logs[:size].mean())) and found.times == pytest.approx(
        found.after / found.before
    )
    assert change(values[:15]) is None and change(np.full(100, math.nan)) is None and change(np.ones(40)).sure == 0


@pytest.mark.parametrize("updates", [20, 60, 500])
def test_chance_is_no_finding(folders, updates):
    """The updates of the good run in any order: nothing rises."""
    facts, rng = replace(read_facts(folders["good"]), evaluation=None), np.random.default_rng(0)
    curves = [one.name for one in fields(Facts) if isinstance(getattr(facts, one.name), np.ndarray)]
    for _ in range(100):
        order = rng.permutation(len(facts.steps))[:updates]
        mixed = replace(facts, **{name: getattr(facts, name)[order] for name in curves})
        assert not findings(replace(mixed, steps=np.arange(1, updates + 1)))


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_the_run_said_and_needs_no_mindspore(folders, tmp_path):
    folder = recorded_runs.unpack("high", tmp_path)
    said = write_diagnosis(folder)
    assert (folder / FILE).read_text() == said + "\n"
    words = f"import sys; from tools import diagnose; diagnose.main([{str(folder)!r}]); assert 'mindspore' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, cwd=recorded_runs.ROOT)
    assert done.returncode == 0 and done.stdout == said + "\n", done.stderr


def test_records_alone_will_do(tmp_path, capsys):
    """Of anybody, with the lines of metrics.jsonl that this suite writes."""
    folder = recorded_runs.unpack("high", tmp_path / "whole")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / METRICS).write_bytes((folder / METRICS).read_bytes())
    command.main([str(tmp_path / "alone")])
    said = capsys.readouterr().out
    assert "the rate is too high" in said and "optim.base_learning_rate=0.006" in said


def test_another_evaluation(folders, tmp_path, capsys):
    folder = recorded_runs.unpack("good", tmp_path / "run")
    evaluated(folder, (500, figures(0.31), 0.0))
    command.main([str(folder)])
    assert "hardly anything of the subject, 1% of the way" in capsys.readouterr().out
    command.main([str(folder), "--evaluation", str(folders["good"] / "evaluation")])
    assert "looks well" in capsys.readouterr().out


def test_memory_of_the_device_as_it_is_given(tmp_path, capsys):
    folder = recorded_runs.unpack("good", tmp_path)
    timings = json.loads((folder / TIMINGS).read_text())
    (folder / TIMINGS).write_text(json.dumps(timings | {"peak_device_memory_gb": 20.7}))
    command.main([str(folder), "--device_memory_gb", "85"])
    assert "data.per_batch_size could be 6" in capsys.readouterr().out


BAD = {
    "nothing": (lambda folder: [folder / "nothing"], "does not exist"),
    "a file": (lambda folder: [folder / METRICS], "is a file: give the folder of a run"),
    "no records": (lambda folder: [folder.parent], "holds no metrics.jsonl"),
    "empty": (lambda folder: [_with(folder, "")], "holds no update (0 lines that are none)"),
    "no line is one": (lambda folder: [_with(folder, '[1]\n{"step": null}\nnan\n{"step": 0}\n')], "(4 lines that are none)"),
    "evaluation": (lambda folder: [folder, "--evaluation", folder], "holds no checkpoints.json"),
    "other JSON": (lambda folder: [folder, "--evaluation", _other(folder)], "of something else than this run's checkpoints"),
    "memory": (lambda folder: [folder, "--device_memory_gb", 80], "do not say how much memory of a device was used"),
    "no memory": (lambda folder: [folder, "--device_memory_gb", 0], "0 is too small"),
    "no folder": (lambda folder: [], "FOLDER"),
}


def _with(folder, text: str):
    (folder / METRICS).write_text(text)
    return folder


def _other(folder):
    (folder / "evaluation").mkdir(exist_ok=True)
    (folder / EVALUATION).write_text('{"steps": [3]}')
    return folder / "evaluation"


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(run, tmp_path, case):
    arguments, expected = BAD[case]
    status, errors = run(command, *arguments(recorded_runs.unpack("good", tmp_path / "run")))
    assert status == 2 and errors.startswith("error: ") and errors.count("\n") == 1 and expected in errors, errors


@pytest.mark.parametrize("seed", range(24))
def test_whatever_the_files_hold(tmp_path, seed):
    """Bytes changed, cut off, or other JSON in their place: a paragraph, or a sentence that says what is wrong."""
    from gm.errors import UserError

    dice = random.Random(seed)
    folder = recorded_runs.unpack("good", tmp_path)
    for name in (METRICS, CONFIG, TIMINGS, EVALUATION, *(path.name for path in folder.glob("*.ckpt"))):
        if dice.random() < 0.6:
            (folder / name).write_bytes(_damaged((folder / name).read_bytes(), dice))
    try:
        text = diagnose(read_facts(folder))
    except UserError as error:
        assert METRICS in str(error)
    else:
        assert text.isprintable() and text.endswith(".")


ODD = ("", "x", "0", "-1", "1e999", "nan", "[" * 9999, "{}", '{"a": {"img_count": 1e999, "n_repeats": 1}}')


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_whatever_the_lora_says(folders, text):
    facts = read_facts(folders["uneven"])
    said = replace(facts, said=dict.fromkeys(facts.said, text), peak_gb=1.0, device_gb=9.0)
    assert set(findings(said)) == {"memory_unused"} and diagnose(said).isprintable()


def _damaged(content: bytes, dice: random.Random) -> bytes:
    kind = dice.randrange(4)
    if kind == 0:
        return content[: dice.randrange(len(content))]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(dice.choice([1, 10, 1000])):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        return bytes(changed)
    if kind == 2:
        return content.replace(b": ", dice.choice([b": -", b": [", b": 1e999, ", b": true, ", b": 9" + b"9" * 400]), 200)
    return dice.choice(
        [b"", b"{}", b"[]", b"null\n" * 30, b"[" * 100_000, b'{"step": 1}\n{"step": 1e400}', b'{"seconds": {"a": []}}']
    )
