"""The `optim` section of a YAML: every optimizer and schedule, rates, and what is refused."""

import re

import numpy as np
import pytest

import tiny
from gm.checkpoint.io import write_tensors
from gm.config.load import load_config
from gm.config.types import AdafactorConfig, OptimConfig, ProdigyConfig
from gm.errors import UserError
from gm.optimizers.rates import SCHEDULES
from gm.optimizers.table import OPTIMIZERS, optimizer_of, state_names, unusual_rate
from gm.training.resume import STATE, read_state
from gm.training.state_file import STATE_FILE

O, P = "optim.optimizer_config.target=gm.training.optim.", "optim.optimizer_config.params."  # noqa: E741
S = "optim.scheduler_config="
GIVEN = "optim.base_learning_rate=null"


def optim(*overrides: str, path=tiny.TEXT_TRAINING) -> OptimConfig:
    found = load_config(str(path), overrides).optim
    assert found is not None
    return found


def test_every_optimizer_has_the_defaults_of_its_origin():
    """prodigyopt's, transformers' and the paper's, not those of the AdamW in the base of the YAML."""
    prodigy, lion = optim(O + "Prodigy"), optim(O + "Lion")
    adafactor = optim(O + "Adafactor", GIVEN)
    assert prodigy.prodigy == ProdigyConfig() and not prodigy.bias_correction
    assert (prodigy.beta1, prodigy.beta2, prodigy.eps, prodigy.weight_decay) == (0.9, 0.999, 1e-8, 0.0)
    assert (lion.beta1, lion.beta2, lion.weight_decay) == (0.9, 0.99, 0.0)
    assert adafactor.adafactor == AdafactorConfig(relative_step=True) and adafactor.weight_decay == 0
    assert [optim().optimizer, prodigy.optimizer, adafactor.optimizer, lion.optimizer] == list(OPTIMIZERS)
    assert optim() == optim(O + "AdamW") and optim("optim.base_learning_rate=null").base_learning_rate == 1e-4


def test_every_parameter_arrives():
    given = {"beta1": 0.8, "beta2": 0.98, "beta3": 0.7, "eps": 1e-5, "weight_decay": 0.5, "d0": 1e-4, "d_coef": 2.0}
    flags = {"decouple": False, "use_bias_correction": True, "safeguard_warmup": True, "growth_rate": 1.02}
    found = optim(*(f"{P}{key}={value}" for key, value in (given | flags).items()), O + "Prodigy")  # in any order
    assert (found.beta1, found.beta2, found.eps, found.weight_decay, found.bias_correction) == (0.8, 0.98, 1e-5, 0.5, True)
    assert found.prodigy == ProdigyConfig(0.7, False, True, 1e-4, 2.0, 1.02)
    given = {"eps1": 1e-20, "eps2": 0.1, "clip_threshold": 2.0, "decay_rate": -0.5, "beta1": 0.9}
    flags = {"scale_parameter": False, "relative_step": True, "warmup_init": True}
    found = optim(GIVEN, O + "Adafactor", *(f"{P}{key}={value}" for key, value in (given | flags).items()))
    assert found.adafactor == AdafactorConfig(1e-20, 0.1, 2.0, -0.5, 0.9, False, True, True)
    found = optim(O + "Lion", f"{P}weight_decay=0.1", f"{P}beta1=0.95")
    assert (found.beta1, found.weight_decay) == (0.95, 0.1)
    found = optim("optim.text_encoder_stop_share=0.3", "optim.lora_plus_ratio=16", "optim.scale_weight_norms=1")
    assert (found.text_encoder_stop_share, found.lora_plus_ratio, found.scale_weight_norms) == (0.3, 16.0, 1.0)
    assert optim("optim.ema_decay=0.999").ema_decay == 0.999 and optim().ema_decay is None


def test_every_schedule_is_known():
    targets = {"Constant": {}, "Linear": {"final_factor": 0.1}, "Cosine": {"final_factor": 0.1}}
    targets |= {"CosineRestarts": {"num_cycles": 3}, "Polynomial": {"power": 2.0, "final_factor": 0.1}}
    found = []
    for target, params in targets.items():
        optim_config = optim(f"{S}{{target: gm.training.optim.{target}, params: {params | {'warmup_share': 0.05}}}}")
        found.append(optim_config.schedule)
        assert all(getattr(optim_config, key) == value for key, value in params.items()) and optim_config.warmup_share == 0.05
    assert found == list(SCHEDULES)


def test_a_yaml_over_another_optimizer(tmp_path):
    """It need not take back the params of the one below; those of the same kind stay."""
    (tmp_path / "top.yaml").write_text(
        f"base: {tiny.TRAINING}\noptim: {{optimizer_config: {{target: gm.training.optim.Lion, params: {{beta1: 0.95}}}}}}\n"
    )
    found = optim(path=tmp_path / "top.yaml")
    assert (found.optimizer, found.beta1, found.beta2, found.weight_decay) == ("Lion", 0.95, 0.99, 0.0)
    decay = optim("optim.optimizer_config.target=mindspore.nn.AdamWeightDecay")
    assert (decay.eps, decay.weight_decay, decay.bias_correction) == (1e-8, 0.01, False)


def test_a_text_encoder_with_rate_0_has_no_lora():
    both = [f"optim.rates.text_encoder_{number}=0" for number in (1, 2)]
    assert set(load_config(str(tiny.TEXT_TRAINING), both[:1]).lora) == {"unet", "text_encoder_2"}
    config = load_config(str(tiny.TEXT_TRAINING), both)
    assert set(config.lora) == {"unet"} and not config.trains_text_encoders
    found = load_config(str(tiny.TEXT_TRAINING), ["optim.rates={unet: 0, text_encoder_2: 1e-5}"])
    assert set(found.lora) == {"unet", "text_encoder_1", "text_encoder_2"} and found.optim.rates["text_encoder_2"] == 1e-5


PRODIGY, ADAFACTOR = O + "Prodigy", O + "Adafactor"
BAD = [
    (("optim.rates.text_encoder=0.1",), "unknown key 'optim.rates.text_encoder', did you mean 'text_encoder_"),
    (("optim.rates.unet=-1",), "optim.rates.unet is -1.0, but must be at least 0"),
    (("optim.rates={unet: 0, text_encoder_1: 0, text_encoder_2: 0}",), "optim.rates is 0 for every network"),
    (("optim.text_encoder_stop_share=0",), "text_encoder_stop_share is 0, but must be above 0 and at most 1"),
    (("optim.text_encoder_stop_share=1.5",), "text_encoder_stop_share is 1.5"),
    (("optim.rates={text_encoder_1: 0, text_encoder_2: 0}", "optim.text_encoder_stop_share=0.5"), "no text encoder trains"),
    (("optim.rates.unet=0", "optim.text_encoder_stop_share=0.5"), "nothing would train to the end"),
    (("optim.lora_plus_ratio=0",), "lora_plus_ratio is 0, but must be above 0"),
    (("optim.scale_weight_norms=0",), "scale_weight_norms is 0, but must be above 0"),
    (("optim.ema_decay=1",), "ema_decay is 1, but must be between 0 and 1"),
    ((S + "{target: gm.training.optim.Cosine, params: {warmup_steps: 2, warmup_share: 0.1}}",), "give one of them"),
    ((S + "{target: gm.training.optim.Linear, params: {warmup_share: 5}}",), "warmup_share is 5, but must be below 1"),
    ((S + "{target: gm.training.optim.CosineRestarts, params: {num_cycles: 0}}",), "must be at least 1"),
    ((PRODIGY, "optim.base_learning_rate=1", "optim.rates.text_encoder_1=0.5"), "the networks have the rates 0.5, 1"),
    ((PRODIGY, "optim.lora_plus_ratio=16"), "lora_plus_ratio is 16, but Prodigy finds one step size"),
    ((PRODIGY, P + "d0=0"), "Prodigy's d0 0 and d_coef 1 must be above 0"),
    ((PRODIGY, P + "growth_rate=0.5"), "growth_rate is 0.5, but must be at least 1"),
    ((PRODIGY, P + "betas=0.9"), "unknown key 'optim.optimizer_config.params.betas'"),
    ((ADAFACTOR,), "Adafactor with relative_step: True makes its own rate"),
    ((ADAFACTOR, GIVEN, "optim.rates.unet=0.1"), "makes its own rate"),
    ((ADAFACTOR, GIVEN, "optim.lora_plus_ratio=2"), "makes its own rate"),
    ((ADAFACTOR, GIVEN, S + "{target: gm.training.optim.Cosine}"), "makes its own rate"),
    ((ADAFACTOR, P + "relative_step=False", P + "warmup_init=True"), "warmup_init is a way for Adafactor's relative step"),
    ((ADAFACTOR, P + "relative_step=False", P + "decay_rate=0.8"), "decay_rate 0.8 below 0"),
    ((O + "Lion", P + "eps=0.1"), "unknown key 'optim.optimizer_config.params.eps'"),
]


@pytest.mark.parametrize("overrides, words", BAD)
def test_what_is_refused(overrides, words):
    with pytest.raises(UserError, match=re.escape(words)) as error:
        optim(*overrides)
    assert "\n" not in str(error.value)


def test_a_rate_for_a_network_without_lora():
    with pytest.raises(UserError, match="optim.rates.text_encoder_2 is 0.1, but that network has no LoRA"):
        optim("optim.rates.text_encoder_2=0.1", path=tiny.TRAINING)
    assert optim("optim.rates.text_encoder_2=0", path=tiny.TRAINING)
    one = optim(PRODIGY, "optim.base_learning_rate=1", "optim.rates={text_encoder_1: 0, unet: 1}")
    assert one.rates == {"text_encoder_1": 0.0, "unet": 1.0}  # two rates, but one that trains


def test_a_rate_far_off_is_told():
    assert unusual_rate(OptimConfig(optimizer="Prodigy"), 1e-4) == (
        "Prodigy expects a rate near 1, because it finds the step size by itself, but --config gives 0.0001: it may learn nothing"
    )
    assert "--config gives 1: it may learn noise" in str(unusual_rate(OptimConfig(optimizer="Lion"), 1.0))
    for optimizer, rate in (("Prodigy", 0.75), ("Prodigy", 1.0), ("Adafactor", 5e-4), ("Lion", 3e-5), ("AdamW", 1e-30)):
        assert unusual_rate(OptimConfig(optimizer=optimizer), rate) is None
    assert unusual_rate(optim(ADAFACTOR, GIVEN), 1e-30) is None  # it makes its own


def test_a_state_tells_its_optimizer():
    configs = [optim(), optim(PRODIGY), optim(ADAFACTOR, GIVEN), optim(ADAFACTOR, GIVEN, P + "beta1=0.9"), optim(O + "Lion")]
    assert [optimizer_of(state_names(config)) for config in configs] == [config.optimizer for config in configs]
    assert optimizer_of(state_names(optim("optim.ema_decay=0.9"))) == "AdamW" and optimizer_of({"x"}) is None


@pytest.mark.parametrize(
    "names, words",
    [
        (("m", "v"), "is the state of AdamW, but --config trains with Prodigy: resume with AdamW"),
        (("row", "col"), "is the state of Adafactor, but --config trains with Prodigy"),
        (("m", "v", "s", "p0", "d", "ema"), "has a moving average, but --config has no ema_decay"),
        (("m", "v", "s", "p0"), "is not the training state of this configuration (1 tensors missing, 0 unknown"),
        (("m", "v", "s", "p0", "d"), ""),
    ],
)
def test_a_state_of_another_optimizer_is_refused(tmp_path, names, words):
    config = load_config(str(tiny.TRAINING), [PRODIGY, "optim.base_learning_rate=1"])
    shapes = {"model.diffusion_model.x.lora_A.weight": (2, 3), "model.diffusion_model.x.lora_B.weight": (4, 2)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    arrays |= {STATE + name: np.ones(4 if name == "d" else 14, np.float32) for name in names}
    arrays |= {STATE + "counters": np.array([3, 2, 1, 0]), STATE + "loss_scale": np.ones(1, np.float32)}
    write_tensors(tmp_path / STATE_FILE, arrays.items(), metadata={})
    if not words:
        assert set(read_state(str(tmp_path), config, {}, shapes)[0]) == set(arrays)
        return
    with pytest.raises(UserError, match=re.escape(words)) as error:
        read_state(str(tmp_path), config, {}, shapes)
    assert "\n" not in str(error.value)
