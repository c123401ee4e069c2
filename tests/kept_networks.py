"""Networks for sampling that are built and compiled once for all commands that run in one test process.

A command that is run in the tests' own process loads its weights into the network that an earlier one has built, of the
same configuration: its graphs are compiled already. What a command does otherwise stays as it is.
"""

from types import SimpleNamespace

import pytest


class Kept:
    """What was made, by what it was made of."""

    def __init__(self):
        self._made = []

    def by(self, make):
        """`make` with its results kept; arguments are compared with ==, cells by identity."""

        def kept(*arguments, **more):
            key = make, arguments, more
            for known, made in self._made:
                if known == key:
                    return made
            self._made.append((key, make(*arguments, **more)))
            return self._made[-1][1]

        return kept


KEPT = Kept()


@pytest.fixture
def kept_networks(monkeypatch) -> None:
    """Commands run in this process sample with networks that are kept, and embed prompts here."""
    from gm.encoding import text
    from gm.models import sdxl
    from gm.sampling import making, pipeline
    from gm.training import class_images, drawing, networks

    builders = {name: KEPT.by(getattr(sdxl, name)) for name in ("build_unet", "build_vae", "build_text_encoders")}
    for module in (text, pipeline, networks):
        monkeypatch.setattr(module, "sdxl", SimpleNamespace(**{**vars(sdxl), **builders}))
    monkeypatch.setattr(text, "TextEmbedder", KEPT.by(text.TextEmbedder))
    for module in (text, making):
        monkeypatch.setattr(module, "run_in_subprocess", lambda function, *arguments: function(*arguments))
    sampler = KEPT.by(class_images.PictureSampler)
    for module in (pipeline, class_images, drawing):
        monkeypatch.setattr(module, "PictureSampler", sampler)
