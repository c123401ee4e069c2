"""--compile_cache_dir: the next run takes the compiled training graph and trains the same; another network never gets it.

Each run is a process of its own: MindSpore counts graphs from the start of a process.
"""

import multiprocessing
import time

import numpy as np
import pytest

import tiny
from gm.graph_cache import graph_folder
from gm.models import sdxl
from gm.process import beside, run_in_subprocess
from small import UNET


@pytest.mark.xdist_group("small")
def test_the_graph_is_taken_from_the_folder(twice):
    """What is damaged there is removed and compiled anew: test_caches.py."""
    graphs, cold = twice.folder / "graphs", twice.cold
    assert "compiled graphs are in" not in cold.said and np.isfinite(cold.records[-1]["loss"])
    warm = twice.warm
    assert "compiled graphs are in" in warm.said and "[WARNING]" not in warm.said
    assert all(np.allclose(cold.lora[key], warm.lora[key], rtol=0, atol=1e-7) for key in cold.lora)
    other = twice.train("alpha", "--set", f"{UNET}.lora_alpha=8")
    assert "compiled graphs are in" not in other.said and len(list(graphs.iterdir())) == 2
    norms = [run.records[0]["grad_norm"] for run in (cold, other)]
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-3), "it is the graph of another alpha"


def test_whatever_decides_a_graph_decides_its_folder(tmp_path):
    decides = {"model": {"rank": 4}, "pixels": 256}
    assert graph_folder(tmp_path, decides) == graph_folder(tmp_path, dict(reversed(decides.items())))
    assert graph_folder(tmp_path, decides) != graph_folder(tmp_path, decides | {"pixels": 512})


def test_what_runs_beside_ends_when_the_body_fails():
    with beside(lambda: 7) as found:
        assert found.result() == 7
    start = time.perf_counter()
    with pytest.raises(KeyError):
        with beside(lambda: run_in_subprocess(time.sleep, 300)) as found:
            while not multiprocessing.active_children():
                time.sleep(0.01)
            raise KeyError("the body")
    assert "was killed" in str(found.exception()) and time.perf_counter() - start < 200
    with pytest.raises(ZeroDivisionError):
        with beside(lambda: 1 / 0) as found:
            found.result()


def test_weights_are_filled():
    unet = sdxl.build_unet(tiny.model())
    names = [parameter.name for parameter in unet.get_parameters()]
    shapes = {parameter.name: parameter.shape for parameter in unet.get_parameters()}
    read = lambda name: np.full(shapes[name], names.index(name), np.float16)  # noqa: E731
    sdxl.fill([unet], read)
    for parameter in unet.get_parameters():
        assert parameter.asnumpy().dtype == np.float32 and (parameter.asnumpy() == names.index(parameter.name)).all()
    with pytest.raises(AssertionError, match="given"):
        sdxl.fill([unet], lambda name: np.zeros((1,), np.float32))
