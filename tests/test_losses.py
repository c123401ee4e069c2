"""The loss and its gradient against PyTorch: noised latents and targets of diffusers' schedulers, the formulas of sd-scripts
and OneTrainer written down again, on a network of one matrix."""

from dataclasses import replace
from itertools import product
from typing import Optional

import mindspore as ms
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from mindspore import Parameter, Tensor, nn, ops

import small as small_model
import tiny
from gm.config.data import require_frozen_text
from gm.config.load import load_config
from gm.config.types import Config, LossConfig, MaskConfig, NoiseConfig, SampleSettings
from gm.data.dreambooth import CLASS, INSTANCE
from gm.diffusion.denoiser import Denoiser, output_target
from gm.diffusion.levels import Levels, huber_thresholds
from gm.diffusion.masking import pixel_weights
from gm.diffusion.schedule import alpha_and_std, edm_sigmas, legacy_ddpm_sigmas, sampling_sigmas, train_sigmas
from gm.encoding.text import TextEmbedding
from gm.errors import UserError
from gm.models import sdxl
from gm.models.adapters import adapters_of, initial_value
from gm.sampling.latents import LatentSampler
from gm.training.batches import MicroBatch
from gm.training.micro_step import SUMS
from gm.training.step import LossScale, Trainer
from modes import in_mode

SHAPE = (2, 4, 6, 5)
SCALED = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def scheduler(kind, terminal: bool, **more):
    return kind(**SCALED, rescale_betas_zero_snr=terminal, **more)


class Toy(nn.Cell):
    """In place of a UNet: mixes the channels by a frozen matrix, and with `lora` by a trained one, and adds the time."""

    def __init__(self, lora: bool):
        super().__init__()
        random = np.random.default_rng(5)
        self.frozen = Parameter(Tensor(random.standard_normal((4, 4)).astype(np.float32)), requires_grad=False)
        matrix = Tensor(random.standard_normal((4, 4)).astype(np.float32))
        self.lora = Parameter(matrix, name="lora_A.weight") if lora else None

    def construct(self, x, timestep, context, vector):
        weight = self.frozen if self.lora is None else self.frozen + self.lora
        mixed = ops.matmul(weight, x.reshape(2, 4, 30)).reshape(2, 4, 6, 5)
        return mixed + timestep.reshape(2, 1, 1, 1) / 1000.0 + vector[:, :1].reshape(2, 1, 1, 1)


def config_of(prediction="eps", terminal=False, masks: Optional[MaskConfig] = None, perturbs=0.0, **loss) -> Config:
    config = tiny.config(total_step=5, masks=masks)
    model = replace(config.model, prediction=prediction, zero_terminal_snr=terminal)
    return replace(config, model=model, loss=LossConfig(**loss), noise=NoiseConfig(input_perturbation=perturbs))


def batch_of(config: Config, index=(999, 300)) -> MicroBatch:
    random = np.random.default_rng(1)
    image = lambda: random.standard_normal(SHAPE).astype(np.float32)  # noqa: E731
    levels, index = Levels.of(config.model, config.weighting, config.loss), np.array(index)
    text = random.standard_normal((2, 77, 8)).astype(np.float32), random.standard_normal((2, 3)).astype(np.float32)
    blank = MicroBatch.blank(SHAPE, text, config)
    return replace(
        blank,
        **{"mean": image(), "logvar": image(), "posterior_noise": image(), "noise": image()},
        **{"sigma": levels.sigma[index], "timestep": index, "weight": np.array([0.7, 0.4])},
        kind=np.array([INSTANCE, CLASS]),
        input_noise=image() if config.noise.input_perturbation else None,
        huber_c=None if levels.huber_c is None else levels.huber_c[index],
        mask=None if blank.mask is None else random.uniform(0, 1, (2, 1, 6, 5)).astype(np.float32),
    )


def trainer_of(config: Config, scale: float = 1.0) -> Trainer:
    prior = Toy(False) if config.data.masks and config.data.masks.prior_weight else None
    return Trainer(config, Toy(True), None, LossScale(scale, False), prior_unet=prior)


def found(config: Config, batch: MicroBatch, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of the trained matrix, and (weighted, instance, class) losses."""
    trainer = trainer_of(config, scale)
    trainer.compile(batch)
    trainer.accumulate(batch, True)
    for cell in (trainer.micro_step, trainer.prior):
        assert cell is None or len(cell.compile_cache) == (ms.get_context("mode") == ms.GRAPH_MODE)  # compiled ahead
    total = trainer.gradient.total.asnumpy().astype(np.float64)
    sums = total[-SUMS:]
    return total[:-SUMS].reshape(4, 4) / scale, np.array([sums[0] / scale, sums[1], sums[3]])


def expected(config: Config, batch: MicroBatch) -> tuple[np.ndarray, np.ndarray]:
    """The same by PyTorch."""
    model, toy = config.model, Toy(True)
    ddpm = scheduler(DDPMScheduler, model.zero_terminal_snr)
    array = lambda given: torch.from_numpy(np.asarray(given, np.float32))  # noqa: E731
    frozen, lora = array(toy.frozen.asnumpy()), array(toy.lora.asnumpy()).requires_grad_()
    time, noise = torch.from_numpy(batch.timestep), array(batch.noise)
    x0 = model.scale_factor * (array(batch.mean) + (array(batch.logvar) / 2).exp() * array(batch.posterior_noise))
    seen = noise if batch.input_noise is None else array(batch.input_noise)
    x, pooled = ddpm.add_noise(x0, seen, time), array(batch.text[1])

    def output(matrix):
        return torch.einsum("oc,bchw->bohw", matrix, x) + (time / 1000 + pooled[:, 0])[:, None, None, None]

    def of_error(a, b):
        if config.loss.loss_type == "l2":
            return (a - b) ** 2
        c = array(batch.huber_c)[:, None, None, None]
        return (2 * c if config.loss.loss_type == "huber" else 2) * (torch.sqrt((a - b) ** 2 + c**2) - c)

    target = noise if model.prediction == "eps" else ddpm.get_velocity(x0, noise, time)
    losses, masks = of_error(output(frozen + lora), target), config.data.masks
    if masks:
        clamped = array(batch.mask).clamp(masks.unmasked_weight, 1)
        parts = [
            losses * clamped,
            masks.prior_weight * (1 - clamped) * of_error(output(frozen + lora), output(frozen).detach()),
        ]
        if masks.normalise:
            parts = [part / m.mean((1, 2, 3), keepdim=True) for part, m in zip(parts, (clamped, 1 - clamped))]
        losses = parts[0] + (parts[1] if masks.prior_weight else 0)
    per_sample = losses.mean((1, 2, 3))
    weighted = (per_sample * array(batch.weight)).sum()
    weighted.backward()
    return lora.grad.numpy(), torch.stack((weighted, *per_sample)).detach().numpy()


CASES = [
    *(
        {"prediction": p, "terminal": z, "perturbs": g}
        for p, z, g in (("eps", 0, 0), ("v", 0, 0.1), ("v", 1, 0), ("eps", 0, 0.1))
    ),
    *({"loss_type": kind, "huber_schedule": s} for kind, s in product(("huber", "smooth_l1"), ("snr", "constant"))),
    *({"masks": MaskConfig(0.2, normalise, prior)} for normalise, prior in product((False, True), (0.0, 0.6))),
    {"prediction": "v", "terminal": True, "perturbs": 0.2, "loss_type": "huber", "masks": MaskConfig(0.1, True, 0.5)},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_and_gradients(case):
    config = config_of(**{**case, "terminal": bool(case.get("terminal"))})
    batch = batch_of(config)
    gradient, losses = expected(config, batch)
    with in_mode(ms.PYNATIVE_MODE):
        given = found(config, batch, 256.0)
    assert tiny.relative_error(given[0], gradient) < 1e-5
    assert np.allclose(given[1], losses, rtol=1e-5)


@pytest.mark.parametrize("case", [CASES[-1], {"masks": MaskConfig(0.2, False, 0.0)}], ids=("all", "mask"))
def test_the_compiled_graph_is_the_same_loss(case):
    config = config_of(**case)
    batch = batch_of(config)
    with in_mode(ms.PYNATIVE_MODE):
        gradient, losses = found(config, batch)
    given = found(config, batch)
    assert tiny.relative_error(given[0], gradient) < 1e-5 and np.allclose(given[1], losses, rtol=1e-5)


def test_options_that_are_off_add_nothing_to_what_a_graph_is_given():
    plain, text = config_of(), (np.zeros((2, 77, 8), np.float32), np.zeros((2, 3), np.float32))
    for config in (plain, None):
        blank = MicroBatch.blank(SHAPE, text, config)
        assert blank.input_noise is None and blank.huber_c is None and blank.mask is None
    with in_mode(ms.PYNATIVE_MODE):
        whole = trainer_of(config_of(**CASES[-1]))
        arrays = [array.shape for array in whole._inputs(batch_of(whole.config))]
        assert arrays == [(5, *SHAPE), (2, 12), (2, 2, 6, 5)]
        assert [a.shape for a in whole._inputs(MicroBatch.blank(SHAPE, text, whole.config))] == arrays
        assert [array.shape for array in trainer_of(plain)._inputs(batch_of(plain))] == [(4, *SHAPE), (2, 11)]


def test_the_networks_output_at_noise_alone_is_learnt_from_noise_alone():
    """Where alpha is 0 the input has nothing of the latent, and v is the latent."""
    alpha, std = alpha_and_std(train_sigmas(zero_terminal_snr=True)[[999]])
    assert (alpha[0], std[0]) == (0.0, 1.0)
    x0, noise = (Tensor(np.full((1, 1, 1, 1), value, np.float32)) for value in (3.0, 5.0))
    with in_mode(ms.PYNATIVE_MODE):
        assert (
            float(output_target(True, x0, noise, Tensor(alpha, ms.float32), Tensor(std, ms.float32)).asnumpy().item()) == -3.0
        )


# -- schedules ---------------------------------------------------------------------------------------------------------


def test_zero_terminal_snr_is_that_of_the_paper():
    ddpm = scheduler(DDPMScheduler, True)
    betas = 1.0 - (0.00085**0.5 + np.linspace(0, 1, 1000) * (0.012**0.5 - 0.00085**0.5)) ** 2
    roots = np.sqrt(np.cumprod(betas))
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    alpha, std = alpha_and_std(train_sigmas(zero_terminal_snr=True))
    assert np.abs(alpha - roots).max() < 1e-12 and alpha[-1] == 0 and np.abs(alpha**2 + std**2 - 1).max() < 1e-12
    assert np.abs(alpha - ddpm.alphas_cumprod.numpy() ** 0.5).max() < 1e-6  # which computes in float32
    sampled, euler = sampling_sigmas(zero_terminal_snr=True), scheduler(EulerDiscreteScheduler, True)
    assert np.allclose(sampled[:-1], euler.sigmas.numpy()[1:1000][::-1], rtol=1e-4)
    assert sampled[-1] == pytest.approx(4518.76, abs=0.01)  # ComfyUI's; diffusers has 4096
    assert legacy_ddpm_sigmas(10, sampled)[0] == sampled[-1] and edm_sigmas(10, sampled)[0] == pytest.approx(sampled[-1])
    assert np.array_equal(sampling_sigmas(), train_sigmas()) and edm_sigmas(10)[0] == pytest.approx(14.6146)


@pytest.mark.parametrize("prediction, name", [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")])
def test_denoised_latents_are_diffusers(prediction, name):
    """EulerDiscreteScheduler's input scaling and estimate of the latent."""
    config = config_of(prediction, prediction == "v")
    euler = scheduler(EulerDiscreteScheduler, prediction == "v", prediction_type=name, timestep_spacing="trailing")
    euler.set_timesteps(5)
    random, toy = np.random.default_rng(3), Toy(False)
    pooled, sizes = (random.standard_normal((2, n)).astype(np.float32) for n in (3, 6))
    for time, sigma in zip(euler.timesteps[1:], euler.sigmas[1:]):
        x = (random.standard_normal(SHAPE) * float(sigma)).astype(np.float32)
        with in_mode(ms.PYNATIVE_MODE):
            row = np.full((2, 1, 1, 1), float(sigma), np.float32), np.full(2, float(time), np.float32)
            given = Denoiser(toy, config.model)(*map(Tensor, (x, *row, np.zeros((2, 77, 8), np.float32), pooled, sizes)))
            scaled = euler.scale_model_input(torch.from_numpy(x), time)
            output = toy(Tensor(scaled.numpy()), Tensor(row[1]), None, Tensor(pooled))
        step = euler.step(torch.from_numpy(output.asnumpy()), time, torch.from_numpy(x))
        assert tiny.relative_error(given.asnumpy(), step.pred_original_sample.numpy()) < 1e-5


def test_sampling_starts_at_the_last_level(text=TextEmbedding(np.zeros((77, 8), np.float32), np.ones(3, np.float32))):
    """Euler's method written down with v, from where ComfyUI starts."""
    settings, toy = replace(SampleSettings.square(48, 3), guider="IdentityGuider"), Toy(False)
    noise = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    sigmas, index = sampling_sigmas(zero_terminal_snr=True), (999, 666, 333)
    x = noise * np.sqrt(1 + sigmas[999] ** 2)
    with in_mode(ms.PYNATIVE_MODE):
        given = LatentSampler(toy, config_of("v", True).model)(text, text, settings, noise, None, "sampling")
        for i, then in zip(index, (*sigmas[[666, 333]], 0.0)):
            alpha, sigma = 1 / np.sqrt(1 + sigmas[i] ** 2), sigmas[i]
            rows = np.full(2, i, np.float32), np.ones((2, 3), np.float32)
            v = toy(Tensor((x * alpha).astype(np.float32)), Tensor(rows[0]), None, Tensor(rows[1])).asnumpy()
            x = x + (then - sigma) * (x - (alpha**2 * x - sigma * alpha * v)) / sigma
    assert tiny.relative_error(given, x) < 1e-4


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_target_is_what_denoises_to_the_latent(prediction):
    class Answer(nn.Cell):
        def construct(self, x, timestep, context, vector):
            return context

    random, sigma = np.random.default_rng(4), sampling_sigmas(zero_terminal_snr=True)[[5, 980]]
    x0, noise = (random.standard_normal(SHAPE) for _ in range(2))
    alpha, std = (part[:, None, None, None] for part in alpha_and_std(sigma))
    target = output_target(prediction == "v", x0, noise, alpha, std)
    given = (
        x0 + sigma[:, None, None, None] * noise,
        sigma[:, None, None, None],
        sigma,
        target,
        np.zeros((2, 3)),
        np.zeros((2, 6)),
    )
    with in_mode(ms.PYNATIVE_MODE):
        denoised = Denoiser(Answer(), config_of(prediction).model)(*(Tensor(array.astype(np.float32)) for array in given))
    assert tiny.relative_error(denoised.asnumpy(), x0) < 1e-4


def test_huber_thresholds():
    """sd-scripts' get_huber_threshold_if_needed."""
    c, sigma, time = 0.07, train_sigmas(zero_terminal_snr=True), np.arange(1000)
    found = {s: huber_thresholds(LossConfig("huber", c, s), sigma) for s in ("snr", "exponential", "constant")}
    assert np.allclose(found["snr"], (1 - c) / (1 + sigma) ** 2 + c) and found["snr"][-1] == c
    assert np.allclose(found["exponential"], np.exp(np.log(c) / 1000 * time))
    assert (found["constant"] == c).all() and found["constant"].shape == (1000,)


# -- masks -------------------------------------------------------------------------------------------------------------


def test_pixels_of_a_sample_without_a_mask_count_as_ever():
    masks = np.concatenate((np.ones((1, 1, 4, 4)), np.zeros((1, 1, 4, 4)))).astype(np.float32)
    for normalise in (False, True):
        ones, zeros = pixel_weights(masks, MaskConfig(0.0, normalise, 0.5))
        assert (ones[0] == 1).all() and (ones[1] == 0).all()
        assert (zeros[0] == 0).all() and (zeros[1] == 0.5).all()
    assert pixel_weights(masks, MaskConfig(0.1)).shape == (2, 1, 4, 4)


def test_the_unet_without_lora_holds_the_trained_ones_weights():
    model = small_model.model()
    adapters = adapters_of(model, tiny.lora())
    trained, plain = sdxl.build_unet(model, adapters=adapters), sdxl.build_unet(model)
    random = np.random.default_rng(0)

    def read(name: str) -> np.ndarray:
        shape = shapes[name]
        if sdxl.is_lora(name):
            return initial_value(name.replace("lora_B", "lora_A"), shape, 1)
        spread = 0.02 if len(shape) < 2 else 0.5 / np.sqrt(np.prod(shape[1:]))
        return (name.endswith("gamma") + spread * random.standard_normal(shape)).astype(np.float32)

    shapes = {p.name: tuple(p.shape) for p in trained.get_parameters()}
    values = {name: read(name) for name in shapes}
    sdxl.fill([trained], values.__getitem__)
    shared = sdxl.share_parameters(sdxl.build_unet(model), trained)
    assert {id(p) for p in shared.get_parameters()} < {id(p) for p in trained.get_parameters()}
    sdxl.fill([plain], values.__getitem__)
    sizes = (1, 4, 4, 4), (1,), (1, 77, model.unet.context_dim), (1, model.unet.adm_in_channels)
    arrays = [random.standard_normal(size).astype(np.float32) for size in sizes]
    with in_mode(ms.PYNATIVE_MODE):
        outputs = [unet(*map(Tensor, arrays)).asnumpy() for unet in (shared, plain, trained)]
    assert np.array_equal(outputs[0], outputs[1]) and not np.allclose(outputs[0], outputs[2])
    assert {p.name for p in trained.trainable_params()} == {name for name in shapes if sdxl.is_lora(name)}


def test_a_prior_of_masks_needs_frozen_text_encoders():
    require_frozen_text(MaskConfig(prior_weight=0.5), tiny.lora(), "a.yaml")
    require_frozen_text(MaskConfig(), tiny.lora(text_lora=True), "a.yaml")
    with pytest.raises(UserError, match="prior_weight is 0.5, but the text encoders train"):
        require_frozen_text(MaskConfig(prior_weight=0.5), tiny.lora(text_lora=True), "a.yaml")


# -- the YAML ----------------------------------------------------------------------------------------------------------

PARAMS = "model.params."
LOSS, DRAWN = PARAMS + "loss_fn_config.params.", PARAMS + "sigma_sampler_config.params."
V = PARAMS + "denoiser_config.params.scaling_config.target=gm.modules.diffusionmodules.denoiser_scaling.VScaling"
X0 = V.replace("VScaling", "X0Scaling")
TERMINAL = "discretization_config.params.zero_terminal_snr"
DENOISED = PARAMS + f"denoiser_config.params.{TERMINAL}"


def test_a_yaml_says_all_of_it():
    plain = load_config(str(tiny.TRAINING))
    assert (plain.noise, plain.loss) == (NoiseConfig(), LossConfig())
    assert (plain.model.prediction, plain.model.zero_terminal_snr) == ("eps", False)
    noise = {
        "offset_noise_level": 0.05,
        "multires_noise_iterations": 6,
        "multires_noise_discount": 0.2,
        "input_perturbation": 0.1,
    }
    loss = {"loss_type": "huber", "huber_c": 0.2, "huber_schedule": "constant"}
    drawn = {"min_timestep": 10, "max_timestep": 20}
    given = [f"{LOSS}{key}={value}" for key, value in {**noise, **loss}.items()]
    given += [f"{DRAWN}{key}={value}" for key, value in drawn.items()] + [V, f"{DENOISED}=True"]
    config = load_config(str(tiny.TRAINING), given)
    assert config.noise == NoiseConfig(**noise, **drawn) and config.loss == LossConfig(**loss)
    assert (config.model.prediction, config.model.zero_terminal_snr) == ("v", True)
    assert load_config(str(tiny.TRAINING), [*given, f"{DRAWN}{TERMINAL}=True"]) != config  # in `raw` alone
    sampling = load_config(str(tiny.INFERENCE), [V, f"{DENOISED}=True"], training=False)
    assert sampling.model == config.model and sampling.noise == NoiseConfig()
    assert load_config(str(tiny.INFERENCE), [X0], training=False).model.prediction == "x0"


@pytest.mark.parametrize(
    "change, words",
    [
        ([f"{DENOISED}=True"], "zero_terminal_snr with EpsScaling teaches nothing"),
        ([V, f"{DRAWN}{TERMINAL}=True"], "False in denoiser_config, but True in sigma_sampler_config"),
        ([V, f"{DENOISED}=True", f"{DRAWN}{TERMINAL}=False"], "True in denoiser_config, but False in sigma_sampler_config"),
        ([f"{DRAWN}min_timestep=500", f"{DRAWN}max_timestep=500"], "min_timestep is 500 and max_timestep 500"),
        ([f"{DRAWN}max_timestep=1001"], "at most 1000"),
        ([X0], "has X0Scaling, of weights distilled to one step, which are sampled from and not trained"),
        ([f"{LOSS}loss_type=l1"], "only 'l2' or 'huber' or 'smooth_l1' is supported"),
        ([f"{LOSS}huber_c=0"], "huber_c is 0.0, but must be at least"),
        ([f"{LOSS}noise_offset=0.1"], "unknown key"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, words):
    with pytest.raises(UserError, match=words) as error:
        load_config(str(tiny.TRAINING), change)
    assert "\n" not in str(error.value)
