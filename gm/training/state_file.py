"""Which training state --resume means. No MindSpore import."""

from pathlib import Path
from typing import Optional

from gm.errors import UserError

STATE_FILE = "training_state.ckpt"


def find_state(resume: Optional[str], save_path: str, with_time: bool) -> Optional[Path]:
    """The file that --resume means, a path, or with True the newest in --save_path, which `with_time` is that of the newest run
    below it; None for no --resume or False. UserError where there is none."""
    if resume is None or resume == "False":
        return None
    folder = Path(save_path)
    if resume != "True":
        path = Path(resume)
        if not path.exists():
            raise UserError(f"--resume {path} does not exist: give the folder of a run, its {STATE_FILE}, or True")
        if not path.is_dir():
            return path
        if not (path / STATE_FILE).exists():
            raise UserError(
                f"--resume {path} holds no {STATE_FILE}{_elsewhere(path)}: a run writes it with its first LoRA file"
            )
        return path / STATE_FILE
    found = _below(folder) if with_time else [folder / STATE_FILE]
    found = [path for path in found if path.is_file()]
    if not found:
        raise UserError(
            f"--resume True finds no {STATE_FILE} in {'a sub-folder of ' if with_time else ''}--save_path {folder}"
            f"{_elsewhere(folder, with_time)}: leave --resume away to start anew, or give the path of a state"
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def _below(folder: Path) -> list[Path]:
    """The states in the sub-folders, which --save_path_with_time makes."""
    return [path for path in folder.glob(f"*/{STATE_FILE}") if path.is_file()] if folder.is_dir() else []


def _elsewhere(folder: Path, with_time: bool = False) -> str:
    """Where there is one instead."""
    found = [folder / STATE_FILE] if with_time else _below(folder)
    found = [path for path in found if path.is_file()]
    return f" (there is {max(found, key=lambda path: path.stat().st_mtime_ns)})" if found else ""
