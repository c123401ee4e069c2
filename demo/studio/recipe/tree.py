"""What a prepared training says beyond the YAML of its model: a preset or an imported recipe, the visitor's settings over it, and
masks where photos have some. Plain values, as YAML has them."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Mapping, Sequence

from gm.config.overrides import is_another
from gm.config.table import CLIP, OPEN_CLIP, TARGETS
from gm.config.tree import read_tree
from gm.config.yaml_text import read_yaml
from gm.data.images import count_images
from gm.data.masks import mask_file
from gm.errors import UserError
from gm.recipes.draft import DATASET, EMBEDDERS
from gm.texts import read_text
from studio.draft import Draft, Settings
from studio.words import say

ROOT = Path(__file__).resolve().parents[3]
PRESETS = {name: ROOT / "configs" / "recipes" / f"{name}.yaml" for name in ("pet", "style", "product")}
SECTIONS = ("model", "optim", "data")  # of a recipe; its base is the model's YAML
OPTIMIZER = "optim.optimizer_config.target"
MASKS = DATASET + "masks"
TRAINS_TEXT = tuple(f"{EMBEDDERS}{number}.is_trainable" for number in (0, 1))  # set for LoRA in the text encoders
OUTSIDE = (DATASET + "concepts", MASKS + ".folder")  # what would lead to other files than the draft's photos

Tree = dict[str, Any]


def own_tree(draft: Draft, settings: Settings) -> Tree:
    """All that the job's YAML says beside its `base`. UserError for an imported recipe that is gone."""
    tree = start_tree(draft, settings)
    for key, value in sorted(settings.overrides.items(), key=lambda one: _order(one[0])):
        put(tree, key, read_yaml(value, key))
    if any(settings.overrides.get(key) == "False" for key in TRAINS_TEXT):
        _freeze_text(tree)
    for key in OUTSIDE:
        _take_out(tree, key)
    if found(tree, MASKS) is None and not said(tree, MASKS) and has_masks(draft, settings):
        put(tree, MASKS, {})
    return tree


def _order(key: str) -> tuple[int, bool]:
    """What is above before what is in it, and a target before its params."""
    return key.count("."), not key.endswith(".target")


def _freeze_text(tree: Tree) -> None:
    """Text encoders without the LoRA that an imported recipe has given them."""
    for number, target in enumerate((CLIP, OPEN_CLIP)):
        if found(tree, f"{EMBEDDERS}{number}.target") is not None:
            put(tree, f"{EMBEDDERS}{number}.target", target)


def start_tree(draft: Draft, settings: Settings) -> Tree:
    """What the preset or the imported recipe says."""
    if settings.recipe:
        path = draft.folder / Path(settings.recipe).name
        if not path.is_file():
            raise UserError(say("the imported recipe is not there any more: import it again, or choose a preset"))
        read = read_yaml(read_text(path, path.name), path.name)
        return {key: read[key] for key in SECTIONS if key in read} if isinstance(read, dict) else {}
    if settings.preset in PRESETS:
        return _copied(_preset(PRESETS[settings.preset]))
    return {}


def has_masks(draft: Draft, settings: Settings) -> bool:
    """Whether one of the photos that are trained on has a mask beside it."""
    return any(mask_file(photo, None) for photo in used_photos(draft, settings))


def used_photos(draft: Draft, settings: Settings) -> list[Path]:
    """The draft's photos without those that are left out."""
    return [photo for photo in count_images(draft.photos) if photo.name not in settings.excluded]


@lru_cache(maxsize=8)
def _preset(path: Path) -> Tree:
    """What a preset says other than the YAML that it inherits from: learning rate and updates that are only that one's stay the
    model's own."""
    own = read_yaml(read_text(path, path.name), path.name)
    base = own.pop("base")
    return differences(own, read_tree(str(path.parent / base), ()))


def differences(own: Any, base: Any) -> Any:
    """What `own` says other than `base`; the whole of a section with another target."""
    if not isinstance(own, Mapping) or not isinstance(base, Mapping) or _target(own, base) != base.get("target"):
        return own
    kept = {}
    for key, value in own.items():
        if key not in base:
            kept[key] = value
        elif value != base[key]:
            kept[key] = differences(value, base[key])
    return kept


def _target(own: Mapping, base: Mapping) -> Any:
    return own.get("target", base.get("target"))


def put(tree: Tree, key: str, value: Any) -> None:
    """Set one entry, as --set does; a number stands for an item of a list. What belonged to another target goes."""
    *above, last = _parts(key)
    at: Any = tree
    for part in above:
        if isinstance(at, list):
            at = at[part]
            continue
        if not isinstance(at.get(part), (dict, list)):
            at[part] = {}
        at = at[part]
    if last == "target" and isinstance(at.get("params"), dict):
        known = {} if key == OPTIMIZER and is_another(at.get("target"), value) else TARGETS.get(value, {})
        at["params"] = {name: one for name, one in at["params"].items() if name in known}
    at[last] = value


def found(tree: Any, key: str) -> Any:
    """What stands there, or None."""
    for part in _parts(key):
        if isinstance(tree, list):
            tree = tree[part] if isinstance(part, int) and part < len(tree) else None
        else:
            tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def said(tree: Tree, key: str) -> bool:
    """Whether the entry is given, be it as nothing."""
    above, _, last = key.rpartition(".")
    section = found(tree, above)
    return isinstance(section, dict) and last in section


def _take_out(tree: Tree, key: str) -> None:
    above, _, last = key.rpartition(".")
    section = found(tree, above)
    if isinstance(section, dict):
        section.pop(last, None)


def _parts(key: str) -> Sequence[Any]:
    return [int(part) if part.isdigit() else part for part in key.split(".")]


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value
