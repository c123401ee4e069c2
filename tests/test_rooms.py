"""The house: imports point down only, gm knows nothing of the commands and the toy, and files stay short."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# from the top down: a room may import from rooms below it, and from files of its own
FLOORS = (
    ("gm.jobs",),
    ("gm.training",),
    ("gm.evaluation",),
    ("gm.recipes",),
    ("gm.sampling",),
    ("gm.encoding",),
    ("gm.diffusion", "gm.optimizers"),
    ("gm.models", "gm.graph_cache"),
    ("gm.data",),
    ("gm.options",),
    ("gm.pictures",),
    ("gm.process",),
    ("gm.memory",),
    ("gm.runtime",),
    ("gm.device",),
    ("gm.parallel",),
    ("gm.checkpoint",),
    ("gm.config",),
    ("gm.files", "gm.console", "gm.randomness", "gm.soundness"),
    ("gm.texts",),
    ("gm.errors", "gm.ending"),
    ("gm.guard",),
)
# names without code of MindSpore, which command lines and YAMLs offer as choices
LISTS = {("gm.options", "gm.diffusion"), ("gm.config", "gm.diffusion"), ("gm.options", "gm.sampling")}


def modules(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if path.name != "__init__.py")


def imports(path: Path) -> set[str]:
    """The modules of this project that a file imports, inside its functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return {name for name in found if name.split(".")[0] in ("gm", "tools", "demo", "tests", "bench")}


def floor_of(name: str) -> tuple[int, str]:
    for number, rooms in enumerate(FLOORS):
        for room in rooms:
            if name == room or name.startswith(room + "."):
                return number, room
    raise AssertionError(f"{name} is in no room of FLOORS: put its room there")


@pytest.mark.parametrize("path", modules("gm"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own, room = floor_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in imports(path):
        assert name.startswith("gm."), f"{path} imports {name}: gm stands by itself"
        below, other = floor_of(name)
        assert below > own or other == room or (room, other) in LISTS, f"{path} imports {name}, which is not below it"


@pytest.mark.parametrize("folder", ["gm", "demo", "tools", "bench", "tests"])
def test_files_are_short(folder):
    for path in modules(folder):
        lines = len(path.read_text().splitlines())
        assert lines < 400, f"{path} has {lines} lines: a file has one purpose"
