"""One training run: which network is loaded when, and freed when nothing more needs it.

The prompts are embedded and the photos encoded in processes of their own, whose memory is free again afterwards, while
this one loads the UNet and compiles its training graph; the UNet that samples the class images is the one that is then
trained. Checks of the weight files come before all of it.
"""

import time
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Optional, Sequence

import numpy as np
from mindspore.nn import Cell

from gm.checkpoint import lora_stack as lora
from gm.process import beside
from gm.options.train import TrainOptions
from gm.checkpoint.io import open_tensors, write_tensors
from gm.checkpoint.lora_export import write_lora
from gm.checkpoint.lora_files import lora_in_base, open_lora, save_lora
from gm.checkpoint.weights import open_base, split_weight_argument, stream_whole
from gm.config.types import Config
from gm.console import log, waiting
from gm.data.crops import Photos, Posteriors
from gm.data.disk_cache import DiskCache
from gm.data.dreambooth import CLASS, INSTANCE, DreamBoothSchedule, SampleOrder
from gm.errors import UserError
from gm.graph_cache import graph_folder
from gm.models import sdxl
from gm.models.conditioner import TextEncoders, tokenize
from gm.models.unet import UNet
from gm.models.vae import VAE
from gm.parallel.ranks import Ranks, deal
from gm.pictures import contact_sheet, save_png
from gm.runtime import Runtime, peak_memory_gb
from gm.sampling.pictures import PictureSampler, SampleSettings, Text, TextEmbedder, unconditional
from gm.training.precompute import Caching
from gm.training.loop import BatchMaker, LoopSettings, compile_first, fit
from gm.training.class_images import sample_images
from gm.training.timings import Timings
from gm.training.step import LossScale, MicroBatch, Trainer

STATE_FILE = "training_state.ckpt"


class Job:
    """The networks and weights of one run. Making it checks the weight files; nothing is loaded yet."""

    def __init__(
        self, options: TrainOptions, config: Config, class_config: Optional[Config], machine: Runtime, ranks: Ranks
    ):
        self.options, self.config, self.machine, self.ranks = options, config, machine, ranks
        self.class_model = (class_config or config).model
        self.shares_model = class_config is None
        base_shapes, self.lora_shapes = sdxl.expected_shapes(config.model)
        base_path, lora_paths = split_weight_argument(options.weight)
        self.base = open_base(base_path, options.vae)
        self.base.check(base_shapes)
        self.resume = self._open_resume(options.resume)
        self.start_lora = self._start_lora(lora_paths)
        self.unet: Optional[UNet] = None
        self.vae: Optional[VAE] = None
        self.text_encoders: Optional[TextEncoders] = None
        self.texts: dict[str, Text] = {}
        self.unet_texts: dict[str, Text] = {}
        self.encoding: Optional[Future] = None  # of the prompts and photos, beside the main thread
        disk = DiskCache(Path(options.cache_dir) if options.cache_dir else None)
        self.stages = Timings()
        self.caching = Caching(config.model, self.base, machine, ranks, disk)

    # -- weights ---------------------------------------------------------------------------------------------------

    def _start_lora(self, paths: Sequence[str]) -> Optional[dict[str, np.ndarray]]:
        """LoRA matrices to start from: of --resume, of a second file in --weight, of a base + LoRA file, or fresh."""
        if self.resume is not None:
            return {name: self.resume[name] for name in self.lora_shapes}
        if len(paths) > 1:
            raise UserError(f"--weight names {len(paths)} LoRA files, but training continues one: give base,lora")
        if not paths and not self.base.lora_names():
            return None
        file = open_lora(paths[0], self.config.model) if paths else lora_in_base(self.base)
        file.check(self.lora_shapes, self.config.model.lora.alpha)
        return {name: file.read(name) for name in self.lora_shapes}

    def _open_resume(self, path: Optional[str]) -> Optional[dict[str, np.ndarray]]:
        if path is None:
            return None
        file = Path(path) / STATE_FILE if Path(path).is_dir() else Path(path)
        with open_tensors(file) as tensors:
            state = {name: tensors.read(name) for name in tensors.names}
            alpha = tensors.metadata.get("lora_alpha")
        wanted = set(self.lora_shapes) | {f"state.{key}" for key in ("m", "v", "counters", "loss_scale")}
        wrong = [n for n in self.lora_shapes if n in state and state[n].shape != tuple(self.lora_shapes[n])]
        if set(state) != wanted or wrong:
            raise UserError(
                f"--resume {file} is not the training state of this configuration ({len(wanted - set(state))} tensors "
                f"missing, {len(set(state) - wanted)} unknown, {len(wrong)} of another shape): resume with the YAML of "
                "the first run"
            )
        given = self.config.model.lora.alpha
        if alpha is not None and float(alpha) != given:
            raise UserError(f"--resume {file} was trained with lora_alpha {alpha}, but --config says {given:g}: make them equal")
        return state

    def _read(self, name: str) -> np.ndarray:
        if not sdxl.is_lora(name):
            return self.base.read(name)
        if self.start_lora is not None:
            return self.start_lora[name]
        return lora.initial_value(name, self.lora_shapes[name], self.options.seed)

    def _fill(self, cell: Cell, what: str) -> Cell:
        """Load one network, with a bar of its own unless the processes that encode show theirs."""
        if not self._is_encoding():
            return sdxl.load(cell, self._read, what)
        with waiting(f"loading {what}", self._is_encoding):
            sdxl.fill([cell], self._read)
        return cell

    def _is_encoding(self) -> bool:
        return self.encoding is not None and not self.encoding.done()

    def _load_text_encoders(self) -> TextEncoders:
        if self.text_encoders is None:
            self.text_encoders = self._fill(sdxl.build_text_encoders(self.config.model, self.machine.dtype), "text encoders")
        return self.text_encoders

    def _load_unet(self) -> UNet:
        if self.unet is None:
            with self.stages("building the UNet"):
                frozen_text = not self.config.model.trains_text_encoders
                unet = sdxl.build_unet(self.config.model, self.machine.dtype, text_products=frozen_text)
            with self.stages("loading the UNet"):
                self.unet = self._fill(unet, "UNet")
        return self.unet

    def _load_vae(self) -> VAE:
        if self.vae is None:
            self.vae = sdxl.load(sdxl.build_vae(self.config.model), self._read, "VAE")
        return self.vae

    # -- text ------------------------------------------------------------------------------------------------------

    def _embed(self) -> None:
        """Embed every prompt of the run with the base model's text encoders, each on one of the ranks."""
        if self.texts:
            return
        prompts = [self.options.instance_prompt, self._infer_prompt()]
        if self.options.class_prompt:
            prompts.append(self.options.class_prompt)
        with self.stages("prompts"):
            self.texts = self.caching.embed(prompts)

    def _texts_of_unet(self) -> dict[str, Text]:
        """The embedded prompts as the UNet being trained takes them."""
        if not self.unet_texts:
            unet, contexts = self._load_unet(), np.stack([text.context for text in self.texts.values()])
            if not self.config.model.trains_text_encoders:
                with self.stages("prompts"):
                    contexts = sdxl.add_text_products(unet, contexts, self.base.read)
            self.unet_texts = {
                prompt: Text(context, text.pooled) for (prompt, text), context in zip(self.texts.items(), contexts)
            }
        return self.unet_texts

    def _infer_prompt(self) -> str:
        return self.options.infer_prompt or self.options.instance_prompt

    # -- class images ----------------------------------------------------------------------------------------------

    def sample_class_images(self, folder: Path, numbers: Sequence[int]) -> None:
        """Sample the missing class images from the base model: at LoRA's B = 0 the model being trained is the base.

        The ranks share them out in whole batches, so that a batch holds the same images for any number of ranks.
        """
        options, size = self.options, self.options.sample_batch_size
        log.info("%d class images are missing in %s: sampling them from %r", len(numbers), folder, options.class_prompt)
        self._embed()
        batches = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        mine = deal(batches, self.ranks.size, self.ranks.rank)
        if not mine:
            return
        if self.shares_model and self.start_lora is None:
            unet, texts = self._load_unet(), self._texts_of_unet()
        else:
            texts = self.texts
            plain = sdxl.build_unet(sdxl.without_lora(self.class_model), self.machine.dtype)
            unet = sdxl.load(plain, self.base.read, "UNet")
        sampler = PictureSampler(unet, self._load_vae(), self.config.model)
        text = texts[options.class_prompt]
        settings = SampleSettings.square(self.config.data.target_size, options.sample_step)

        def sample(seeds: Sequence[int], what: str) -> list[np.ndarray]:
            keyed = [options.seed * 1_000_003 + seed for seed in seeds]
            return sampler(text, unconditional(text), settings, keyed, what)

        about = {"prompt": options.class_prompt, "sampler": settings.sampler, "steps": settings.steps}
        with self.stages("class images"):
            sample_images(folder, mine, size, sample, about)

    # -- training --------------------------------------------------------------------------------------------------

    def train(self, instance_images: Sequence[Path], class_images: Sequence[Path], folder: Path) -> Path:
        """Cache, compile and train; returns the last checkpoint."""
        options, config = self.options, self.config
        schedule = self._schedule(len(instance_images), len(class_images))
        photos = [self._photos(INSTANCE, instance_images)] + ([self._photos(CLASS, class_images)] if class_images else [])
        draws = schedule.distinct_draws(config.data.total_step)
        if self.ranks.size > 1 or not options.cache_latents:  # other ranks are waited for, or this process encodes
            posteriors = self._encode(photos, draws)
            trainer = self._trainer(bool(class_images))
        else:
            with beside(lambda: self._encode(photos, draws)) as self.encoding:
                trainer = self._compiled_trainer(bool(class_images))
                posteriors = self._encoded()
        if self.resume is not None:
            trainer.set_state({key[6:]: value for key, value in self.resume.items() if key.startswith("state.")})
            log.info("resuming after step %d", trainer.step)
        log.info(
            "training %d LoRA matrices (%d numbers) for %d steps of %d x %d samples",
            *(len(trainer.parameters), trainer.gradient.size, config.data.total_step),
            *(schedule.accumulation * schedule.ranks, schedule.per_batch_size * (2 if class_images else 1)),
        )
        make_batch = BatchMaker(
            schedule, posteriors, *self._training_text(bool(class_images)), options.seed, config.model.num_timesteps
        )
        settings = LoopSettings(
            folder,
            options.save_ckpt_interval,
            options.max_num_ckpt,
            options.log_interval or max(1, self.config.data.total_step // 30),
            options.infer_interval if options.infer_during_train else None,
        )
        infer = self._progress_pictures(folder) if options.infer_during_train and self.ranks.is_main else None
        start = time.perf_counter()
        first = trainer.step
        save = lambda path, step: self._save(path, step, trainer)  # noqa: E731
        last = fit(trainer, make_batch, settings, save, self.stages, infer, self.ranks)
        if self.ranks.is_main:
            self.stages.report(folder / "timings.json", trainer.step - first)
        log.info("trained in %.1f s, peak memory %.1f GB", time.perf_counter() - start, peak_memory_gb())
        if self.ranks.size > 1:
            log.info("%d all-reduces of %.1f MB over %d ranks", trainer.reductions, trainer.reduced_mb, self.ranks.size)
        return last

    def _encode(self, photos: Sequence[Photos], draws: Sequence[tuple[int, int, int]]) -> Posteriors:
        """The posteriors of all draws; the prompts are embedded before, where they are."""
        if not self.config.model.trains_text_encoders:
            self._embed()
        with self.stages("photos"):
            if self.options.cache_latents:
                return self.caching.encode(photos, draws)
            return self.caching.encode_when_drawn(photos, draws, self._load_vae())

    def _encoded(self) -> Posteriors:
        with self.stages("waiting for prompts and photos"):
            return self.encoding.result()

    def _trainer(self, with_class: bool) -> Trainer:
        options, config = self.options, self.config
        dynamic = options.loss_scale_type == "dynamic"
        half = self.machine.amp_level == "O2"
        scale = options.loss_scale or ((65536.0 if dynamic else 1024.0) if half else 1.0)
        return Trainer(
            config,
            self._load_unet(),
            self._load_text_encoders() if config.model.trains_text_encoders else None,
            LossScale(scale, dynamic, options.loss_scale_window),
            options.max_grad_norm if options.clip_grad else None,
            options.overflow_still_update,
            self.ranks,
            self._graph_folder(with_class),
        )

    def _compiled_trainer(self, with_class: bool) -> Trainer:
        """The trainer with its graph, for which shapes will do. What encoding has failed with by then is raised."""
        trainer, model, data = self._trainer(with_class), self.config.model, self.config.data
        rows = data.per_batch_size * (2 if with_class else 1)
        if model.trains_text_encoders:
            text = tokenize([""] * rows)
        else:
            context = np.zeros((rows, 77, self.unet.context_width), np.float32)
            text = context, np.zeros((rows, model.text_encoders[1].embed_dim), np.float32)
        if self.encoding.done() or not self.machine.shares_device:
            self._encoded()
        latent = (rows, model.unet.in_channels, data.target_size // 8, data.target_size // 8)
        compile_first(trainer, MicroBatch.blank(latent, text), self.stages, self._is_encoding)
        return trainer

    def _photos(self, kind: int, paths: Sequence[Path]) -> Photos:
        data = self.config.data
        return Photos(kind, paths, data.target_size, data.interpolation, data.crop, self.options.seed)

    def _schedule(self, instances: int, classes: int) -> DreamBoothSchedule:
        options, data = self.options, self.config.data
        return DreamBoothSchedule(
            SampleOrder(instances, options.train_data_repeat, data.shuffle, options.seed, INSTANCE),
            SampleOrder(classes, 1, data.shuffle, options.seed, CLASS) if classes else None,
            data.per_batch_size,
            options.gradient_accumulation_steps,
            self.ranks.size,
            options.prior_loss_weight,
        )

    def _graph_folder(self, with_class: bool) -> Optional[Path]:
        """Where the training graphs are kept: by all that decides them."""
        if not self.options.compile_cache_dir:
            return None
        config = self.config
        decides = {
            **{"model": asdict(config.model), "optim": asdict(config.optim), "machine": asdict(self.machine)},
            **{"pixels": config.data.target_size, "rows": config.data.per_batch_size, "class": with_class},
            **{"ranks": self.ranks.size},
        }
        folder = graph_folder(Path(self.options.compile_cache_dir), decides)
        if folder.exists():
            log.info("compiled graphs are in %s", folder)
        return folder

    def _training_text(self, with_class: bool) -> tuple[tuple, Optional[tuple]]:
        """What stands for each prompt in a micro-batch: its embeddings, or its tokens when the encoders train."""
        prompts = [self.options.instance_prompt] + ([self.options.class_prompt] if with_class else [])
        if self.config.model.trains_text_encoders:
            rows = [tuple(ids[0] for ids in tokenize([prompt])) for prompt in prompts]
        else:
            rows = [tuple(self._texts_of_unet()[prompt]) for prompt in prompts]
        return rows[0], rows[1] if with_class else None

    def _progress_pictures(self, folder: Path):
        """A function that samples the progress prompt with fixed seeds into <folder>/progress/step_<n>.png."""
        sampler = PictureSampler(self._load_unet(), self._load_vae(), self.config.model)
        settings = SampleSettings.square(self.config.data.target_size, self.options.sample_step)
        prompt = self._infer_prompt()
        embed = TextEmbedder(self.text_encoders) if self.config.model.trains_text_encoders else None

        def infer(step: int) -> None:
            text = embed([prompt])[prompt] if embed else self._texts_of_unet()[prompt]
            seeds = [self.options.seed + i for i in range(self.options.sample_batch_size)]
            pictures = sampler(text, unconditional(text), settings, seeds, f"pictures after step {step}")
            about = {"prompt": prompt, "seeds": seeds, "step": step, "steps": settings.steps}
            save_png(folder / "progress" / f"step_{step}.png", contact_sheet([pictures], [f"step {step}: {prompt}"]), about)

        return infer

    def _save(self, path: Path, step: int, trainer: Trainer) -> None:
        """The LoRA file (or base + LoRA), for other tools as well if asked for, and beside it what --resume needs."""
        cells = [cell for cell in (self.unet, self.text_encoders) if cell is not None]
        matrices = lora.state(cells)
        settings = self.config.model.unet.lora
        about = {
            "lora_rank": str(settings.rank),
            "lora_alpha": str(settings.alpha),
            "step": str(step),
            "instance_prompt": self.options.instance_prompt,
            "base_model": "SDXL-base-1.0",
        }
        if settings.only_save_lora:
            save_lora(path, matrices, about)
        else:
            write_tensors(path, stream_whole(self.base, matrices), metadata=about)
        if self.options.save_format:
            with lora_in_base(open_base(path)) as written:
                write_lora(written, path.with_suffix(".safetensors"), self.options.save_format, model=self.config.model)
        state = matrices | {f"state.{key}": value for key, value in trainer.state().items()}
        write_tensors(path.parent / STATE_FILE, state.items(), metadata=about)
