"""One pretraining run: its parts in their order, each of which goes on from what it left in the folder."""

import time
from pathlib import Path
from typing import Callable, Iterator, Mapping, Optional, Sequence

import numpy as np
from mindspore import Tensor

from gm.checkpoint.io import convert, open_tensors, write_tensors
from gm.checkpoint.rules import IGNORED_ON_LOAD, official_shapes, official_to_native, split_names
from gm.checkpoint.weights import BaseWeights
from gm.config.types import Config, OptimConfig, SampleSettings
from gm.console import bar, log
from gm.data.pixels import to_network, to_pixels
from gm.encoding.compiling import Compiling
from gm.encoding.text import TextEmbedder, unconditional
from gm.errors import UserError
from gm.files import replacing
from gm.models import sdxl
from gm.models.conditioner import tokenize
from gm.models.vae import VAEDecode, VAEEncode
from gm.pictures import contact_sheet, save_png
from gm.randomness import FIRST_STAGE, generator
from gm.runtime import Runtime
from gm.sampling.pictures import PictureSampler
from gm.soundness import require_finite
from gm.training.loop import LoopSettings, Metrics, fit
from gm.training.step import LossScale
from gm.training.timings import Timings
from tools.toy.first_stage import FirstStageTrainer, normalised
from tools.toy.initial import initial_weight
from tools.toy.text_to_image import AveragingTrainer, CaptionedBatches, LearnedWords, OptionalCaption, learn_words, train_all
from tools.toy.training_pictures import load_array

STATE = "{part}_state.ckpt"
FIRST_STAGE_ROWS = 2  # pictures in an update of the first stage
ROWS = 8  # pictures that are encoded at once
PROMPTS = (
    "A photo of a dog",
    "a dog swimming in a pool",
    "A photo of a brown dog in the snow",
    "A photo of a dog in a bucket",
)


class Pretraining:
    """Everything is written below `folder`."""

    def __init__(self, config: Config, machine: Runtime, folder: Path, seed: int, initial: Optional[BaseWeights] = None):
        """`initial`: the weights to go on from, instead of random ones."""
        self.config, self.machine, self.folder, self.seed, self.initial = config, machine, folder, seed, initial
        self.trained: dict[str, np.ndarray] = {}  # of UNet and text encoders, by native name
        self.vae = sdxl.build_vae(config.model)  # one for all parts, so that its graphs are compiled once
        self.posterior = Compiling(VAEEncode(self.vae), "compiling the image encoder")
        self.decode = Compiling(VAEDecode(self.vae, 1.0), "compiling the decoder")

    def _start(self, name: str, shape: tuple) -> np.ndarray:
        return self.initial.read(name) if self.initial else initial_weight(name, shape, self.seed)

    def _fresh(self, cell):
        shapes = {parameter.name: tuple(parameter.shape) for parameter in cell.get_parameters()}
        sdxl.fill([cell], lambda name: self._start(name, shapes[name]))
        return cell

    def first_stage(
        self,
        picture: Callable[[np.random.Generator], np.ndarray],
        pixels: np.ndarray,
        optim: OptimConfig,
        steps: int,
        save_every: int,
    ) -> dict[str, np.ndarray]:
        """The trained VAE's weights by native name. It is trained on what `picture(random)` draws, each
        (h, w, 3) uint8 and seen once, and its latents are normalised with those of `pixels`."""
        done = self.folder / "first_stage.ckpt"
        shapes = {parameter.name: tuple(parameter.shape) for parameter in self.vae.get_parameters()}
        if done.exists():
            return _read_all(done, shapes)
        vae = self._fresh(self.vae)
        state = self.folder / STATE.format(part="first_stage")
        if self.initial and not state.exists():  # its latents have SDXL's scale, those of training a deviation near 1
            sdxl.fill([vae], self._normalised(pixels, 1.0).__getitem__)
        trainer = FirstStageTrainer(vae, optim, steps)
        if state.exists():
            trainer.set_state(_read_all(state, _shapes(trainer.state())))
            log.info("first stage: going on after step %d", trainer.step)
        metrics = Metrics(self.folder / "first_stage.jsonl", trainer.step)
        progress = bar(range(trainer.step, steps), "first stage", total=steps, initial=trainer.step, unit="step")
        for step in progress:
            start = time.perf_counter()
            error = trainer.update(*self._first_stage_batch(picture, step))
            metrics.add({"step": step + 1, "error": error, "seconds": round(time.perf_counter() - start, 3)})
            progress.set_postfix(error=f"{error:.4f}", refresh=False)
            if (step + 1) % save_every == 0 or step + 1 == steps:
                write_tensors(state, trainer.state().items(), {})
                self._reconstructions(pixels, step + 1)
        weights = self._normalised(pixels, self.config.model.scale_factor)
        require_finite("training the first stage", *weights.values(), causes=f"remove {state} and train it longer")
        write_tensors(done, weights.items(), {})
        return weights

    def _normalised(self, pixels: np.ndarray, scale_factor: float) -> dict[str, np.ndarray]:
        means = np.concatenate([rows[:, 0] for rows in self._posteriors(pixels[:1000])])
        return normalised({p.name: p.asnumpy() for p in self.vae.get_parameters()}, means, scale_factor)

    def _first_stage_batch(self, picture: Callable, step: int) -> tuple[np.ndarray, np.ndarray]:
        random, side = generator(self.seed, FIRST_STAGE, step), self.config.data.target_size
        pictures = np.stack([picture(random) for _ in range(FIRST_STAGE_ROWS)])
        latent = (FIRST_STAGE_ROWS, self.config.model.vae.embed_dim, side // 8, side // 8)
        noise = random.standard_normal(latent, np.float32)
        return to_network(pictures), noise

    def _reconstructions(self, pixels: np.ndarray, step: int) -> None:
        """Pictures above what the first stage makes of them."""
        shown = pixels[:ROWS]
        (posteriors,) = self._posteriors(shown)
        back = to_pixels(self.decode(posteriors[:, 0]))
        sheet = contact_sheet([list(shown), list(back)], ["drawn", f"first stage after step {step}"], cell=192)
        save_png(self.folder / "first_stage" / f"step_{step}.png", sheet, {"step": step})

    def _posteriors(self, pixels: np.ndarray) -> Iterator[np.ndarray]:
        """Mean and logvar (rows, 2, z, h, w) of the pictures, in batches."""
        for start in bar(range(0, len(pixels), ROWS), "encoding", unit="batch", leave=False):
            yield np.stack(self.posterior(to_network(pixels[start : start + ROWS])), 1)

    def encode(self, pixels: np.ndarray, first_stage: Mapping[str, np.ndarray]) -> np.ndarray:
        """Posteriors (N, 2, z, h, w) float16 of all pictures."""
        path = self.folder / "posteriors.npy"
        if not path.exists():
            sdxl.fill([self.vae], first_stage.__getitem__)
            with np.errstate(over="ignore"):
                rows = np.concatenate([part.astype(np.float16) for part in self._posteriors(pixels)])
            require_finite("encoding the pictures", rows, causes=f"train the first stage anew, without {self.folder}")
            with replacing(path) as unfinished, unfinished.open("wb") as file:
                np.save(file, rows)
        side = self.config.data.target_size // 8
        return load_array(path, (len(pixels), 2, self.config.model.vae.embed_dim, side, side), np.float16)

    def text_to_image(
        self,
        posteriors: np.ndarray,
        caption: Callable[[int, np.random.Generator], tuple[str, str]],
        vocabulary: Sequence[str],
        first_stage: Mapping[str, np.ndarray],
        save_every: int,
        infer_every: int,
    ) -> None:
        """Train UNet and text encoders; their averaged weights are then in `trained`. `vocabulary`: captions with all
        words; `caption` as for CaptionedBatches."""
        config, model = self.config, self.config.model
        unet, encoders = self._fresh(sdxl.build_unet(model)), self._fresh(sdxl.build_text_encoders(model))
        learned = learn_words(
            encoders, sorted({int(i) for ids in tokenize(list(dict.fromkeys(vocabulary))) for i in np.unique(ids)})
        )
        clip = encoders.embedders[0].transformer.text_model
        train_all(unet, encoders, list(clip.encoder.layers)[model.text_encoders[0].layer_idx :])
        trainer = AveragingTrainer(config, unet, OptionalCaption(encoders), LossScale(1.0, False), max_grad_norm=1.0)
        state = self.folder / STATE.format(part="text_to_image")
        if state.exists():
            self._restore(trainer, _read_all(state, self._state_shapes(trainer)))
            log.info("going on after step %d", trainer.step)
        log.info("training %.1f million numbers for %d steps", trainer.gradient.size / 1e6, config.data.total_step)
        size, rows = config.data.target_size, config.data.per_batch_size
        batches = CaptionedBatches(posteriors, caption, size, rows, self.seed, model.num_timesteps)
        sdxl.fill([self.vae], first_stage.__getitem__)
        sampler, embed = PictureSampler(unet, self.vae, model), TextEmbedder(encoders)

        def infer(step: int) -> None:
            trainer.show(trainer.average)
            settings = SampleSettings.square(size, 20)
            texts = embed(PROMPTS)
            pictures = [sampler(texts[p], unconditional(texts[p]), settings, range(6), f"step {step}: {p}") for p in PROMPTS]
            about = {"prompts": "\n".join(PROMPTS), "step": step}
            save_png(self.folder / "progress" / f"step_{step}.png", contact_sheet(pictures, PROMPTS, cell=192), about)
            trainer.show(trainer.optimizer.p.asnumpy())

        def save(path: Path, step: int) -> None:
            self._collect(trainer, encoders, learned)
            self.write(path, first_stage)
            arrays = {p.name: p.asnumpy() for p in trainer.parameters} | {"average": trainer.average}
            arrays |= {f"state.{key}": value for key, value in trainer.state().items()}
            write_tensors(state, arrays.items(), {})

        settings = LoopSettings(self.folder, save_every, 1, 50, infer_every, "sdxl_{step}.safetensors")
        if trainer.step < config.data.total_step:
            fit(trainer, batches, 1, settings, save, Timings(), infer)
        self._collect(trainer, encoders, learned)

    def _state_shapes(self, trainer: AveragingTrainer) -> dict[str, tuple]:
        shapes = {parameter.name: tuple(parameter.shape) for parameter in trainer.parameters}
        return shapes | {"average": (trainer.gradient.size,)} | _shapes(trainer.state(), "state.")

    def _restore(self, trainer: AveragingTrainer, state: Mapping[str, np.ndarray]) -> None:
        for parameter in trainer.parameters:
            parameter.set_data(Tensor(state[parameter.name]))
        trainer.average = state["average"].copy()
        trainer.set_state({key[6:]: value for key, value in state.items() if key.startswith("state.")})

    def _collect(self, trainer: AveragingTrainer, encoders, learned: Sequence[LearnedWords]) -> None:
        """The averaged weights under the names of the checkpoint."""
        averaged = trainer.averaged()
        for cell in trainer.cells:
            for parameter in cell.get_parameters():
                self.trained[parameter.name] = averaged.get(parameter.name, parameter.asnumpy())
        for words in learned:
            change = self.trained.pop(words.change.name)
            self.trained[words.embedding_table.name] = words.whole_table(change)

    def write(self, path: Path, first_stage: Mapping[str, np.ndarray]) -> None:
        """All weights as one official single file, float16."""
        weights = self.trained | dict(first_stage)

        def read(name: str) -> np.ndarray:
            native = official_to_native(name)
            if native in IGNORED_ON_LOAD:
                shape = IGNORED_ON_LOAD[native]
                return np.arange(shape[1])[None].astype(np.float16) if shape else np.zeros(shape, np.float16)
            return np.concatenate([weights[part] for part in split_names(native) or [native]])

        for name, array in weights.items():
            require_finite(f"training {name}", array, causes="give a smaller --learning_rate and another --output")
        shapes = official_shapes({name: array.shape for name, array in weights.items()})
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, ((name, convert(read(name), "float16")) for name in shapes), {"format": "pt"})


def _read_all(path: Path, shapes: Mapping[str, tuple]) -> dict[str, np.ndarray]:
    """The arrays of a file that a stopped run has left; UserError unless they have these names and shapes."""
    with open_tensors(path) as tensors:
        found = {name: tensors.shape(name) for name in tensors.names}
        if found != dict(shapes):
            wrong = sorted(name for name in {*found, *shapes} if found.get(name) != shapes.get(name))
            raise UserError(
                f"{path} does not fit this run ({wrong[0]} and {len(wrong) - 1} more): remove it or give another --output"
            )
        return {name: tensors.read(name) for name in tensors.names}


def _shapes(arrays: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, tuple]:
    return {prefix + name: array.shape for name, array in arrays.items()}
