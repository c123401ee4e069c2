"""Schedules against those of transformers, and how long the warm-up is."""

from dataclasses import replace

import pytest

from gm.config.types import OptimConfig
from gm.optimizers.rates import learning_rate

TOTAL = 40
OPTIM = OptimConfig(base_learning_rate=0.5)


def rates(optim: OptimConfig) -> list[float]:
    return [learning_rate(optim, step, TOTAL) for step in range(TOTAL)]


@pytest.mark.xdist_group("optimizers")
@pytest.mark.parametrize("warmup", [0, 6])
@pytest.mark.parametrize(
    "name, ours, theirs",
    [
        ("cosine_with_restarts", {"schedule": "cosine_restarts", "num_cycles": 3}, {"num_cycles": 3}),
        ("cosine_with_restarts", {"schedule": "cosine_restarts"}, {}),
        ("polynomial", {"schedule": "polynomial", "power": 2.5, "final_factor": 0.2}, {"lr_end": 0.1, "power": 2.5}),
        ("polynomial", {"schedule": "polynomial", "power": 0.5}, {"lr_end": 0.0, "power": 0.5}),
        ("cosine", {"schedule": "cosine"}, {}),
        ("linear", {"schedule": "linear"}, {}),
        ("constant_with_warmup", {}, None),
    ],
)
def test_schedules_are_transformers(name, ours, theirs, warmup):
    """After the warm-up; in it, theirs begins with 0 and ours, one update ahead, with a share."""
    import torch
    from transformers.optimization import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=OPTIM.base_learning_rate)
    steps = {} if theirs is None else {"num_training_steps": TOTAL}
    schedule = get_scheduler(name, optimizer, num_warmup_steps=warmup, scheduler_specific_kwargs=theirs or {}, **steps)
    expected = []
    for _ in range(TOTAL):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    found = rates(replace(OPTIM, warmup_steps=warmup, **ours))
    assert found[warmup:] == pytest.approx(expected[warmup:], abs=1e-12)
    assert found[:warmup] == pytest.approx(expected[1 : warmup + 1], abs=1e-12)


def test_warmup_as_a_share():
    """Of all updates, rounded down as in sd-scripts."""
    for schedule in ("constant", "linear", "cosine", "cosine_restarts", "polynomial"):
        optim = replace(OPTIM, schedule=schedule)
        assert rates(replace(optim, warmup_share=0.19)) == rates(replace(optim, warmup_steps=7))  # of 40
        assert rates(replace(optim, warmup_share=0.01)) == rates(optim)
    assert rates(replace(OPTIM, warmup_share=0.19)) != rates(OPTIM)
