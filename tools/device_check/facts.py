"""What is installed: MindSpore, CANN and driver with their versions, and the device's own account of itself."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Optional

ASCEND = Path("/usr/local/Ascend")
VERSION = re.compile(r"^\s*version\s*=\s*\[?([\w.]+)", re.IGNORECASE | re.MULTILINE)


def cann_version(root: Path = ASCEND) -> Optional[str]:
    """Of the toolkit that set_env.sh named, or that is in the usual place; None where there is none."""
    homes = [Path(home) for home in (os.environ.get("ASCEND_TOOLKIT_HOME"), os.environ.get("ASCEND_HOME_PATH")) if home]
    for home in (*homes, root / "ascend-toolkit" / "latest", root / "latest", root / "cann"):
        for path in (*sorted(home.glob("*/ascend_toolkit_install.info")), *sorted(home.glob("*-linux/*_install.info"))):
            found = VERSION.search(path.read_text(errors="replace"))
            if found:
                return found[1]
    return None


def driver_version(root: Path = ASCEND) -> Optional[str]:
    path = root / "driver" / "version.info"
    found = VERSION.search(path.read_text(errors="replace")) if path.is_file() else None
    return found[1] if found else None


def device_account() -> Optional[str]:
    """What npu-smi or nvidia-smi prints; None where there is neither."""
    command = {"npu-smi": ["npu-smi", "info"], "nvidia-smi": ["nvidia-smi"]}
    for name, words in command.items():
        if shutil.which(name):
            done = subprocess.run(words, capture_output=True, text=True, timeout=60)
            return done.stdout or done.stderr
    return None
