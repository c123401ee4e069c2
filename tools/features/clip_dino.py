"""CLIP, DINO and LPIPS for tools/evaluate.py, as in the DreamBooth paper (arXiv 2208.12242, section 4.2): for photos.

    pip install torch transformers          # and lpips, which is optional
    CLIP_FOLDER=clip-vit-base-patch32 DINO_FOLDER=dinov2-base python tools/evaluate.py --features tools/features/clip_dino.py ...

Both folders are as transformers saves them: `hf download openai/clip-vit-base-patch32 --local-dir clip-vit-base-patch32`, and
facebook/dinov2-base or facebook/dino-vits16 (the paper's), or `save_pretrained`. Nothing is downloaded here: everything runs
without a network, on the CPU. It is an example as well: copy and change it for other networks.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np

from gm.console import log
from gm.errors import UserError

CLIP_FOLDER = os.environ.get("CLIP_FOLDER", "checkpoints/clip-vit-base-patch32")
DINO_FOLDER = os.environ.get("DINO_FOLDER", "checkpoints/dinov2-base")
DISTANCE = os.environ.get("FEATURES_DISTANCE", "auto")  # lpips, dino, or auto: lpips where it is installed
BATCH = 16  # pictures at once
LPIPS_SIDE = 256  # pixels that pictures are scaled to for LPIPS, the largest of its own experiments (arXiv 1801.03924)

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")  # each line of files: one of them has to be there
FILES = [("config.json",), WEIGHTS, ("preprocessor_config.json", "processor_config.json")]
TOKENIZER = [("tokenizer.json", "vocab.json")]


class ClipAndDino:
    """What tools/evaluate.py asks for (gm/evaluation/features.py)."""

    threshold = None  # CLIP-T has no score from which on a prompt counts as fulfilled

    def __init__(self, clip: Any, clip_processor: Any, dino: Any, dino_processor: Any, lpips: Any):
        """`lpips`: None where the distance is that of DINO."""
        self.clip, self.clip_processor, self.dino, self.dino_processor = (
            clip.eval(),
            clip_processor,
            dino.eval(),
            dino_processor,
        )
        self.lpips = lpips

    def image(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(n, d): DINO's class token after the last norm. The paper's metric DINO is the cosine of two of them."""
        return _in_batches(self._dino, pictures)

    def prompt(self, pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """(n,): CLIP-T, the cosine of CLIP's embeddings of each picture and its prompt, of which 77 tokens count."""
        return _in_batches(self._clip, pictures, prompts)

    def distance(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(n, n): LPIPS, or one minus the cosine of DINO's class tokens."""
        if self.lpips is not None:
            return self._lpips(pictures)
        rows = self.image(pictures)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return np.clip(1 - rows @ rows.T, 0, None)

    def _dino(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        pixels = self.dino_processor(images=list(pictures), return_tensors="pt", input_data_format="channels_last")
        return self.dino(pixels["pixel_values"]).last_hidden_state[:, 0].numpy()

    def _clip(self, pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        texts = self.clip_processor.tokenizer(list(prompts), return_tensors="pt", padding=True, truncation=True)
        pixels = self.clip_processor.image_processor(
            images=list(pictures), return_tensors="pt", input_data_format="channels_last"
        )
        outputs = self.clip(**texts, pixel_values=pixels["pixel_values"])
        return (outputs.image_embeds * outputs.text_embeds).sum(-1).numpy()  # both of length 1

    def _lpips(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        if max(pixels.shape[2:]) > LPIPS_SIDE:
            scale = LPIPS_SIDE / max(pixels.shape[2:])
            pixels = torch.nn.functional.interpolate(pixels, scale_factor=scale, mode="bilinear", antialias=True)
        with torch.inference_mode():
            return np.stack([self.lpips(one[None].expand_as(pixels), pixels).flatten().numpy() for one in pixels])


def features() -> ClipAndDino:
    """Called by tools/evaluate.py. UserError that says what is missing."""
    transformers, torch = _installed("transformers"), _installed("torch")
    torch.manual_seed(0)
    _require_files("CLIP_FOLDER", CLIP_FOLDER, FILES + TOKENIZER)
    _require_files("DINO_FOLDER", DINO_FOLDER, FILES)
    if DISTANCE not in ("auto", "lpips", "dino"):
        raise UserError(f"FEATURES_DISTANCE {DISTANCE} is not known: set it to auto, lpips or dino")
    offline = {"local_files_only": True}
    clip = transformers.CLIPModel.from_pretrained(CLIP_FOLDER, use_safetensors=True, **offline)
    dino = transformers.AutoModel.from_pretrained(DINO_FOLDER, use_safetensors=True, **offline)
    clip_processor = transformers.CLIPProcessor.from_pretrained(CLIP_FOLDER, **offline)
    return ClipAndDino(
        clip, clip_processor, dino, transformers.AutoImageProcessor.from_pretrained(DINO_FOLDER, **offline), _lpips()
    )


def _lpips() -> Any:
    """The network, or None where DINO is to tell distances."""
    if DISTANCE == "dino" or DISTANCE == "auto" and importlib.util.find_spec("lpips") is None:
        log.info("DIV is one minus the cosine of DINO; install lpips for LPIPS")
        return None
    try:
        return _installed("lpips").LPIPS(net="alex", verbose=False).eval()
    except OSError as error:  # it fetches AlexNet where torch has not kept it
        raise UserError(
            f"lpips needs alexnet-owt-7be5be79.pth in torch's cache ({error}): put it into ~/.cache/torch/hub/checkpoints, or set "
            "FEATURES_DISTANCE=dino"
        ) from None


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} cannot be imported ({error}): install it with pip install {name}") from None


def _require_files(name: str, folder: str, files: Sequence[Sequence[str]]) -> None:
    """UserError that names what is not in the folder."""
    if not Path(folder).is_dir():
        raise UserError(f"{name} {folder} is not a folder: set {name} to a folder that transformers has saved")
    missing = [" or ".join(names) for names in files if not any((Path(folder) / one).is_file() for one in names)]
    if missing:
        raise UserError(f"{name} {folder} lacks {', '.join(missing)}: give a whole folder that transformers has saved")


def _in_batches(compute: Callable[..., np.ndarray], *lists: Sequence) -> np.ndarray:
    """What `compute` makes of equally long lists, BATCH entries at a time, without gradients."""
    import torch

    with torch.inference_mode():
        found = [compute(*(one[i : i + BATCH] for one in lists)) for i in range(0, len(lists[0]), BATCH)]
    return np.concatenate(found)
