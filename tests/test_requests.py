"""What a running training is asked for from outside: saving, and its pictures, after the update that is at work."""

import os

import pytest

from gm.errors import UserError
from gm.training.requests import FOLDER, SAMPLE, SAVE, ask, asked_for, forget_requests
from toy_runs import Batch, equal, gradients, pynative, resumed, steps_in, toy, train  # noqa: F401


def asking(folder, wanted, shapes=None):
    """`make_batch` of a training that is asked for `wanted[step]` while it does the update behind `step`."""

    def make(step, micro, rank):
        for name in wanted.get(step, ()):
            ask(folder, name)
        return Batch(gradients(step))

    return make


def test_what_is_asked_for_is_taken_once(tmp_path):
    assert asked_for(tmp_path) == set()
    ask(tmp_path, SAVE)
    ask(tmp_path, SAVE)
    (tmp_path / FOLDER / "unknown").touch()
    assert asked_for(tmp_path) == {SAVE} and asked_for(tmp_path) == set()
    ask(tmp_path, SAMPLE)
    forget_requests(tmp_path)
    assert asked_for(tmp_path) == set()
    with pytest.raises(UserError, match="nothing was asked for"):
        ask(tmp_path / "nowhere", SAVE)


def test_a_request_that_cannot_be_removed_is_not_taken_again_and_again(tmp_path):
    (tmp_path / FOLDER / SAVE).mkdir(parents=True)  # cannot be unlinked
    assert asked_for(tmp_path) == set()


def test_save_now(tmp_path):
    """The state after that update is there, and the numbers of the run are the same."""
    asked, undisturbed = toy(), toy()
    train(asked, tmp_path, asking(tmp_path, {2: [SAVE], 9: [SAVE]}))
    train(undisturbed, tmp_path.parent / "undisturbed", save=lambda path, step: None)
    assert steps_in(tmp_path) == [3, 10] and equal(asked, undisturbed)
    assert (tmp_path / "loss.png").exists()


def test_save_now_is_gone_on_with(tmp_path):
    class Killed(Exception):
        pass

    def make(step, micro, rank):
        if step == 5:
            raise Killed
        return asking(tmp_path, {2: [SAVE]})(step, micro, rank)

    whole = toy()
    train(whole, tmp_path / "whole")
    with pytest.raises(Killed):
        train(toy(), tmp_path, make)
    going_on = resumed(tmp_path)
    assert going_on.step == 3
    train(going_on, tmp_path, continues=True)
    assert equal(going_on, whole)


def test_sample_now(tmp_path):
    """Also in a run without progress pictures; saved first, as a signal may end what compiles."""
    shown = []

    def infer(step):
        shown.append((step, steps_in(tmp_path)))

    train(toy(), tmp_path, asking(tmp_path, {2: [SAMPLE], 6: [SAVE, SAMPLE]}), infer=infer, infer_every=None)
    assert shown == [(3, [3]), (7, [3, 7])]


def test_pictures_that_are_due_are_not_drawn_twice(tmp_path):
    shown = []
    train(toy(), tmp_path, asking(tmp_path, {2: [SAMPLE], 3: [SAMPLE]}), infer=shown.append, infer_every=4)
    assert shown == [3, 4, 8, 10]


def test_a_disk_that_is_full_does_not_end_it(tmp_path):
    def save(path, step):
        if step == 3:
            raise OSError(28, os.strerror(28), str(path))

    last = train(toy(), tmp_path, asking(tmp_path, {2: [SAVE]}), save=save)
    assert last.name == "SDXL_base_1.0_10_lora.ckpt"
