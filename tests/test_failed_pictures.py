"""An evaluation of pictures that show nothing: they fail, whatever features say of them; and a model that makes none is named."""

from types import SimpleNamespace

import numpy as np
import pytest

from gm.config.types import SampleSettings
from gm.encoding.text import TextEmbedding
from gm.errors import UserError
from gm.evaluation.fidelity import Figures
from gm.evaluation.measure import Measure, Photos, flat_pictures
from gm.evaluation.samples import Gallery, Pictures, Plan, Row
from gm.soundness import NotFinite


class Constant:
    """Rates everything alike, as features can a black picture."""

    threshold = 0.5

    def image(self, pictures):
        return np.ones((len(pictures), 2))

    def prompt(self, pictures, prompts):
        return np.full(len(pictures), 0.9)

    def distance(self, pictures):
        return 1.0 - np.eye(len(pictures))


def test_pictures_of_one_colour_fail_in_every_figure():
    """Whatever the features say of them; those of other pictures stay as they are."""
    noise = [np.random.default_rng(n).integers(0, 255, (8, 8, 3)).astype(np.uint8) for n in range(4)]
    black = [np.zeros((8, 8, 3), np.uint8)] * 4
    measure = Measure(Constant(), Photos(noise, None), ["a"])

    def figures(made):
        return measure.model(Pictures({"a": made}, made))[0]

    assert figures(noise) == Figures(
        subject=pytest.approx(1), prompt=0.9, recognised=1.0, pres=pytest.approx(1), div=1.0, div_subject=1.0
    )
    assert figures(black) == Figures(subject=0.0, prompt=0.0, recognised=0.0, pres=1.0, div=0.0, div_subject=0.0)
    half = figures(noise[:2] + black[:2])
    assert (half.subject, half.prompt, half.recognised) == pytest.approx((0.5, 0.45, 0.5))
    assert half.div == pytest.approx(2 / 12)  # of the pairs, only the two that show something differ
    assert flat_pictures(Pictures({"a": noise, "b": black}, noise + black[:1])) == 5


def test_a_model_whose_pictures_are_not_finite_is_named(tmp_path):
    class Broken:
        embedder, texts = object(), dict.fromkeys("ab", TextEmbedding(np.zeros((1, 1)), np.zeros(1)))

        def change_lora(self, *_):
            pass

        embed = change_lora

        def pictures(self, *_):
            raise NotFinite("step 1 of 2 of the sampler gave numbers that are not finite")

    plan = Plan(("a",), "b", (1,), (1,), SampleSettings.square(64, 2), 1)
    (tmp_path / "x.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="^mine, 'a': step 1 of 2 of the sampler"):
        Gallery(tmp_path, plan, {}).fill(Row("mine", tmp_path / "x.ckpt"), Broken(), SimpleNamespace(update=lambda _: None))
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]
