"""Where the golden numbers are found: the folder `shared` beside the checkout, or $SDXL_SHARED."""

import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest

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
