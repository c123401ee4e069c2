"""Settings of how it is learned, by topic: optimizer, rates, loss and noise."""

from gm.recipes.draft import DENOISER, LOSS, TIMESTEPS
from studio.recipe.fields import Field, field, is_one
from studio.recipe.tree import OPTIMIZER
from studio.words import later

PARAMS = "optim.optimizer_config.params."
SCHEDULE = "optim.scheduler_config."
WEIGHTING = DENOISER + "weighting_config."

_adam = is_one(OPTIMIZER, "AdamW", "AdamWeightDecay", "Prodigy", "Lion")
_with_eps = is_one(OPTIMIZER, "AdamW", "AdamWeightDecay", "Prodigy")
_prodigy = is_one(OPTIMIZER, "Prodigy")
_adafactor = is_one(OPTIMIZER, "Adafactor")
_falls = is_one(SCHEDULE + "target", "Linear", "Cosine", "Polynomial")
_huber = is_one(LOSS + "loss_type", "huber", "smooth_l1")

OPTIMIZERS: tuple[Field, ...] = (
    field(
        OPTIMIZER,
        later("Optimizer"),
        later(
            "AdamW is the usual one. Prodigy finds its step size by itself at the rate 1. Adafactor needs less memory. Lion wants a "
            "third to a tenth of AdamW's rate. Choosing one sets the rate that it expects."
        ),
    ),
    field(
        PARAMS + "weight_decay",
        later("Weight decay"),
        later("How strongly the LoRA's numbers are drawn to 0 at every update; 0.01 is common, 0 is none."),
    ),
    field(PARAMS + "beta1", later("beta1"), later("How slowly the mean of the gradients changes, below 1."), _adam),
    field(PARAMS + "beta2", later("beta2"), later("How slowly the mean of the squared gradients changes, below 1."), _adam),
    field(PARAMS + "eps", later("eps"), later("Added to the denominator of the step, against division by 0."), _with_eps),
    field(
        PARAMS + "use_bias_correction",
        later("Bias correction"),
        later("Corrects the means of the first updates, as Adam does; recipes for Prodigy turn it on."),
        _prodigy,
    ),
    field(
        PARAMS + "safeguard_warmup",
        later("Safeguard for a warm-up"),
        later("Keeps a small rate at the start from spoiling Prodigy's estimate; wanted with a warm-up."),
        _prodigy,
    ),
    field(
        PARAMS + "decouple",
        later("Weight decay beside the gradient"),
        later("As AdamW does it; off: the decay is a part of the gradient."),
        _prodigy,
    ),
    field(PARAMS + "d0", later("First step size d0"), later("Prodigy's estimate at the start; 1e-6 is common."), _prodigy),
    field(
        PARAMS + "d_coef",
        later("Factor of the step size"),
        later("Prodigy's estimate times this: 0.5 is more careful, 2 bolder."),
        _prodigy,
    ),
    field(
        PARAMS + "growth_rate",
        later("Largest growth of the step size"),
        later("Prodigy's estimate grows at most by this factor in an update; empty: as fast as it will."),
        _prodigy,
    ),
    field(
        PARAMS + "beta3",
        later("beta3"),
        later("How slowly the sums change that Prodigy's estimate is made of; empty: the root of beta2."),
        _prodigy,
    ),
    field(
        PARAMS + "relative_step",
        later("Relative step"),
        later("Adafactor makes its own rate; then learning rate and schedule must be empty."),
        _adafactor,
    ),
    field(
        PARAMS + "scale_parameter",
        later("Rate by the size of the weights"),
        later("A matrix's rate is times its root mean square; recipes for SDXL turn it off."),
        _adafactor,
    ),
    field(
        PARAMS + "warmup_init",
        later("Warm-up of the relative step"),
        later("Adafactor's own rate begins near 0."),
        _adafactor,
    ),
    field(
        PARAMS + "clip_threshold",
        later("Largest update"),
        later("Adafactor's updates have at most this root mean square."),
        _adafactor,
    ),
)

RATES: tuple[Field, ...] = (
    field(
        SCHEDULE + "target",
        later("Schedule"),
        later("How the learning rate changes after the warm-up: it stays, falls along a line, a cosine, cosines, or a power."),
    ),
    field(
        SCHEDULE + "params.warmup_steps",
        later("Warm-up, updates"),
        later("Over so many updates the rate rises from 0."),
    ),
    field(
        SCHEDULE + "params.warmup_share",
        later("Warm-up, share of the run"),
        later("The warm-up as a share of all updates, e.g. 0.05; give this or the number of updates."),
    ),
    field(
        SCHEDULE + "params.final_factor",
        later("Rate at the end"),
        later("What is left of the learning rate after the last update; 0.1 is a tenth."),
        _falls,
    ),
    field(
        SCHEDULE + "params.num_cycles",
        later("Cosines"),
        later("How often the rate falls and begins anew."),
        is_one(SCHEDULE + "target", "CosineRestarts"),
    ),
    field(
        SCHEDULE + "params.power",
        later("Power"),
        later("1 falls along a line, 2 faster at the start."),
        is_one(SCHEDULE + "target", "Polynomial"),
    ),
    field(
        "optim.rates.unet",
        later("Learning rate of the UNet"),
        later("Where it is not the learning rate of all; 0 trains the text encoders alone."),
    ),
    field(
        "optim.lora_plus_ratio",
        later("LoRA+ ratio"),
        later("The rate of every B matrix over that of its A; 1 is plain LoRA, 16 is common. Not with Prodigy."),
    ),
    field(
        "optim.scale_weight_norms",
        later("Largest norm of a layer's change"),
        later("After an update no layer's change is longer than this; 1 is common, empty: any."),
    ),
    field(
        "optim.ema_decay",
        later("Moving average (EMA)"),
        later("A moving average of the weights is saved instead of them, with this decay; 0.999 is common, empty: none."),
    ),
)

LOSSES: tuple[Field, ...] = (
    field(
        WEIGHTING + "target",
        later("Weighting of the noise levels"),
        later(
            "Eps: all levels alike. MinSNR: levels of little noise count less, which often learns faster. Debiased is similar."
        ),
    ),
    field(
        WEIGHTING + "params.gamma",
        later("Min-SNR gamma"),
        later("5 is common; a smaller number weakens the levels of little noise more."),
        is_one(WEIGHTING + "target", "MinSNRWeighting"),
    ),
    field(
        WEIGHTING + "params.sigma_data",
        later("EDM sigma_data"),
        later("The spread of the data in EDM's weighting."),
        is_one(WEIGHTING + "target", "EDMWeighting"),
    ),
    field(
        LOSS + "loss_type",
        later("Loss"),
        later("l2 is the usual squared error; huber and smooth_l1 forgive single large errors."),
    ),
    field(LOSS + "huber_c", later("Huber threshold"), later("The error from which on it grows along a line."), _huber),
    field(
        LOSS + "huber_schedule",
        later("Huber schedule"),
        later("How the threshold depends on the noise level."),
        _huber,
    ),
    field(
        LOSS + "offset_noise_level",
        later("Noise offset"),
        later(
            "Helps with very dark and very bright pictures: one more number of noise a channel; 0.0357 is common, 0 is none."
        ),
    ),
    field(
        LOSS + "multires_noise_iterations",
        later("Multi-resolution noise, layers"),
        later("So many layers of ever coarser noise are added; 6 is common, 0 is none."),
    ),
    field(
        LOSS + "multires_noise_discount",
        later("Multi-resolution noise, discount"),
        later("The factor from each layer to the next."),
    ),
    field(
        LOSS + "input_perturbation",
        later("Input perturbation"),
        later("The network sees so much more noise than it is asked for; 0.1 is common, 0 is none."),
    ),
    field(
        TIMESTEPS + "min_timestep",
        later("First noise level"),
        later("0 is nearly no noise. A higher number leaves fine detail alone."),
    ),
    field(
        TIMESTEPS + "max_timestep",
        later("Last noise level"),
        later("1000 is noise alone; the level itself is not drawn. A lower number leaves the layout alone."),
    ),
)
