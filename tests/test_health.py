"""Numbers of no use, and updates that take long: what is said, what is saved, and when a run ends."""

import json

import numpy as np
import pytest

import tiny
from gm.errors import UserError
from gm.training.checkpoints import SaveSettings
from gm.training.health import BadUpdates, Explosion, SlowUpdates
from gm.training.step import Update
from toy_runs import Batch, pynative, resumed, said, steps_in, toy, train  # noqa: F401
from toy_trainer import SHAPES, gradients

NAME = SaveSettings.name


def update(loss: float = 1.0, norm: float = 1.0, skipped: bool = False) -> Update:
    return Update(loss=loss, instance_loss=loss, class_loss=None, grad_norm=norm, lr=1.0, loss_scale=1.0, skipped=skipped)


# -- numbers -----------------------------------------------------------------------------------------------------------


def bad(gradient) -> Batch:
    spoilt = [part.copy() for part in gradient]
    spoilt[0].reshape(-1)[0] = np.nan
    return Batch(spoilt)


@pytest.mark.parametrize("dynamic, first", [(False, 20), (True, 30)])
def test_many_bad_updates_in_a_row_end_it(tmp_path, said, dynamic, first):
    """A dynamic loss scale is halved as long as it can be; what is saved is what was before."""
    trainer, good = toy(2.0**30 if dynamic else 8.0, dynamic, total=100), toy(total=100)
    given = {step: gradients(step, SHAPES) for step in range(4)}
    for step in range(4):
        good.update([given[step]])
    words = (
        f"training stopped at step {4 + first}, because in {first} updates in a row .* of step 4, are in .*_{4 + first}_lora"
    )
    with pytest.raises(UserError, match=words):
        train(trainer, tmp_path, lambda step, *_: Batch(given[step]) if step < 4 else bad(given[0]))
    saved = resumed(tmp_path).matrices()
    assert all(np.array_equal(saved[name], value) for name, value in good.matrices().items())


def test_weights_that_are_nan_are_not_saved(tmp_path, said):
    trainer = toy(overflow_still_update=True)
    words = "training stopped at step 8, because p0 has become NaN .*_4_lora.ckpt is kept, and with --resume .* after step 4"
    with pytest.raises(UserError, match=words):
        train(
            trainer, tmp_path, lambda step, *_: bad(gradients(0, SHAPES)) if step == 5 else Batch(gradients(0)), save_every=4
        )
    assert steps_in(tmp_path) == [4] and resumed(tmp_path).step == 4


def test_a_run_that_skipped_most_does_not_say_done(tmp_path, said):
    def make(step: int, micro: int, rank: int) -> Batch:
        return bad(gradients(0)) if step % 10 else Batch(gradients(0))

    with pytest.raises(
        UserError, match="27 of 30 updates had a loss .* not finite: .*_30_lora.ckpt is saved, but hardly trained"
    ):
        train(toy(total=30), tmp_path, make)
    dynamic = toy(64.0, True)
    assert train(dynamic, tmp_path, lambda step, *_: bad(gradients(0)) if step < 6 else Batch(gradients(0)))
    assert any("6 of 10 updates" in line and "finding its value" in line for line in said)


def test_what_an_explosion_is():
    """Not the losses of healthy runs, which differ a hundredfold from update to update; what diverges is named once."""
    healthy = [
        json.loads(line)["loss"] for line in (tiny.ROOT / "checkpoints/small_sdxl/metrics.jsonl").read_text().splitlines()
    ]
    random_losses = np.random.default_rng(0).lognormal(-2, 1.5, 20_000).clip(1e-3, 1.5)
    for losses in (healthy, random_losses, [0.002, *([0.9] * 40)], [0.0] * 40 + [1.0] * 40):
        explosion = Explosion()
        assert [explosion.add(float(loss)) for loss in losses] == [None] * len(losses)
    for losses in ([0.1] * 100 + [0.1 * 1.3**n for n in range(40)], [0.1] + [1e6] * 12, [0.1] * 60 + [5.0, np.nan] * 10):
        explosion = Explosion()
        found = [sentence for sentence in (explosion.add(loss) for loss in losses) if sentence]
        assert len(found) == 1 and "the loss has risen from about 0.1 to about" in found[0]


def test_what_a_slow_update_is():
    now = [0.0]
    slow = SlowUpdates(lambda: now[0])
    assert [slow.add(seconds) for seconds in (9.0, *([0.2] * 20), 0.9, 1.9)][:-1] == [None] * 22
    found = []
    for seconds in (2.1, 0.2, 3.0, 5.0):
        found.append(slow.add(seconds))
        now[0] += 250.0
    assert [bool(one) for one in found] == [True, False, False, True] and "usually it is 0.2 s" in found[-1]


def test_bad_updates_are_counted():
    counted = BadUpdates(dynamic=False)
    for one in (update(), update(np.nan), update(norm=np.inf), update(skipped=True)):
        counted.add(one)
    assert (counted.updates, counted.bad, counted.in_a_row) == (4, 3, 3) and "3 of 4 updates" in counted.most()
    counted.add(update())
    assert counted.in_a_row == 0
