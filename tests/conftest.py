"""Where the golden numbers are found: the folder `shared` beside the checkout, or $SDXL_SHARED."""

import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest_plugins = ["kept_networks", "lora_samples", "refiner", "small"]

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("GLOG_v", "3")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(os.environ.get("SDXL_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"the golden numbers must be present in CI, but {folder} has no golden/")
        pytest.skip(f"needs the golden numbers in {folder} (or in the folder that SDXL_SHARED names)")
    return folder


@pytest.fixture(scope="session")
def tiny_weights(shared: Path) -> Path:
    return shared / "golden" / "tiny_sdxl.safetensors"


@pytest.fixture(scope="session")
def base_shapes() -> dict[str, tuple]:
    """Names and shapes of the tiny model's weights."""
    import tiny
    from gm.models.sdxl import expected_shapes

    return expected_shapes(tiny.model())[0]


@pytest.fixture(scope="session")
def diffusers_folder(tiny_weights, base_shapes, tmp_path_factory) -> Path:
    """What diffusers itself saves of the tiny model: the UNet in shards, the VAE as fp16 variant."""
    import diffusers_models
    import tiny

    path = tmp_path_factory.mktemp("diffusers")
    arrays = diffusers_models.tensors(tiny_weights, base_shapes)
    for part, model in diffusers_models.models(tiny.model()).items():
        filled = diffusers_models.fill(model, arrays[part])
        if part == "unet":
            filled.save_pretrained(path / part, max_shard_size="4MB")
        else:
            filled.half().save_pretrained(path / part, **({"variant": "fp16"} if part == "vae" else {}))
    return path


@pytest.fixture(scope="session")
def golden(shared: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(shared / "golden" / "golden.safetensors")


@pytest.fixture(scope="session")
def setting(shared: Path) -> dict:
    return json.loads((shared / "golden" / "setting.json").read_text())


@pytest.fixture(scope="session")
def full_keys(shared: Path) -> dict[str, list[int]]:
    return json.loads((shared / "golden" / "sd_xl_base_1.0.keys.json").read_text())


@pytest.fixture
def project_log(caplog):
    """What the project logs, as pytest's caplog."""
    logger = logging.getLogger("gm")
    before = logger.propagate, logger.level
    logger.propagate = True
    caplog.set_level(logging.INFO, logger="gm")
    yield caplog
    logger.propagate = before[0]
    logger.setLevel(before[1])


class Runner:
    """Runs a command in this process: (exit status, what it wrote to standard error)."""

    def __init__(self, capfd):
        self.capfd = capfd

    def __call__(self, module, *argv) -> tuple[int, str]:
        from gm import console

        self.capfd.readouterr()
        status = console.run_command(module.main, [str(word) for word in argv])
        return status, self.capfd.readouterr().err.replace("\r", "\n")


@pytest.fixture
def run(capfd):
    return Runner(capfd)


# Files whose tests run whole commands or compile networks, but for the tests named after them, which take no time
SLOW = {
    "test_accelerator.py": (),
    "test_check_device.py": ("differ", "cannot", "there", "timed", "versions", "counted"),
    "test_commands.py": (),
    "test_diffusers_folders.py": ("shapes", "names"),
    "test_endings.py": ("state", "ranks_of", "nothing_is_caught"),
    "test_evaluating_commands.py": ("cannot_act",),
    "test_evaluation.py": ("features", "prompts"),
    "test_golden.py": ("sigmas",),
    "test_graph_cache.py": ("decides",),
    "test_learning.py": (),
    "test_lora_training.py": (),
    "test_other_tools.py": (),
    "test_page.py": (),
    "test_page_browser.py": (),
    "test_page_lora.py": (),
    "test_parallel.py": (),
    "test_precompute.py": ("damaged", "size_of"),
    "test_pretraining.py": ("words",),
    "test_process.py": (),
    "test_recipe.py": (),
    "test_studio_browser.py": (),
    "test_studio_workshop.py": (),
}


# Groups of tests that run one after the other in one process, because they share what was compiled there; the longest
# first, so that no process is left alone with one at the end
GROUPS = (
    "ranks",
    "small",
    "golden",
    "end_to_end",
    "studio",
    "diffusers",
    "same_seed",
    "learning",
    "pretraining",
    "page",
    "refiner",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the quick tests leave out, and put long groups first."""
    for item in items:
        quick = SLOW.get(item.path.name)
        if quick is not None and not any(word in item.name for word in quick):
            item.add_marker(pytest.mark.slow)
    items.sort(key=_place)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stop where pytest-xdist would spread a group over processes; and make PyNative mode quick (gm/runtime.py), which must be
    before anything is computed."""
    grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
    if getattr(session.config.option, "loadgroup", False) and not all("@" in item.nodeid for item in grouped):
        pytest.exit("pytest-xdist does not keep groups together with this pytest: install requirements-test.txt", 3)
    mindspore = sys.modules.get("mindspore")
    if mindspore:
        mindspore.set_device("CPU")
        mindspore.runtime.launch_blocking()


def _place(item: pytest.Item) -> int:
    mark = item.get_closest_marker("xdist_group")
    return GROUPS.index(mark.args[0]) if mark and mark.args[0] in GROUPS else len(GROUPS)
