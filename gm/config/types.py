"""What a run is: frozen dataclasses, one line per field with its unit. Reading them from YAML is gm/config/load.py."""

from dataclasses import dataclass, field
from typing import Mapping, Optional, Tuple, Union


@dataclass(frozen=True)
class LoraPart:
    """Rank and alpha of some modules."""

    pattern: str  # of module names within their network, as fnmatch reads it
    rank: Optional[int] = None  # None: as without this part
    alpha: Optional[float] = None


@dataclass(frozen=True)
class LoraConfig:
    rank: int  # columns of lora_B, rows of lora_A (arXiv 2106.09685, section 4.1)
    alpha: float  # the update is alpha / rank * B A x
    dropout: float = 0.0  # share of the LoRA input zeroed while training
    merge_weights: bool = False  # sampling: add alpha / rank * B A to the weight instead of a second product
    only_save_lora: bool = True  # False: checkpoints carry the base weights as well
    targets: Union[str, Tuple[str, ...]] = "attention"  # or "linear", "all", or patterns of module names in the network
    conv_rank: Optional[int] = None  # rank in convolutions larger than 1 x 1; None: `rank`
    conv_alpha: Optional[float] = None  # alpha there; None: `alpha`
    parts: Tuple[LoraPart, ...] = ()  # modules with a rank or alpha of their own, the last that matches wins
    neuron_dropout: float = 0.0  # share of A x zeroed while training
    rank_dropout: float = 0.0  # share of the ranks that a sample goes without while training
    module_dropout: float = 0.0  # probability that a module's LoRA is left out of a step
    kind: str = "lora"  # or "dora" (arXiv 2402.09353)
    rslora: bool = False  # the update is alpha / sqrt(rank) * B A x (arXiv 2312.03732)


@dataclass(frozen=True)
class Adapter:
    """What is attached to one layer; the dropouts as in LoraConfig."""

    rank: int
    alpha: float
    dropout: float = 0.0
    kind: str = "lora"
    neuron_dropout: float = 0.0
    rank_dropout: float = 0.0
    module_dropout: float = 0.0


Adapters = Mapping[str, Adapter]  # native name of a layer -> what is attached to it


@dataclass(frozen=True)
class UNetConfig:
    in_channels: int = 4  # latent channels
    out_channels: int = 4
    model_channels: int = 320  # channels of the first level
    num_res_blocks: int = 2  # residual blocks per level
    attention_resolutions: Tuple[int, ...] = (4, 2)  # downsampling factors that have transformers
    channel_mult: Tuple[int, ...] = (1, 2, 4)  # channels of a level / model_channels
    num_head_channels: int = 64  # channels of one attention head
    transformer_depth: Tuple[int, ...] = (1, 2, 10)  # transformer blocks per spatial transformer, by level
    context_dim: int = 2048  # channels of the text context
    adm_in_channels: int = 2816  # channels of the pooled text + sizes vector
    attention: str = "vanilla"  # or "flash-attention" (Ascend)
    use_recompute: bool = False  # recompute block activations in the backward pass

    @property
    def downsampling(self) -> int:
        """Image pixels per pixel of the lowest UNet level: 8 (VAE) * 2 per level after the first."""
        return 8 * 2 ** (len(self.channel_mult) - 1)


@dataclass(frozen=True)
class TextEncoderConfig:
    kind: str  # "clip" (OpenAI ViT-L/14, transformers names) or "open_clip" (ViT-bigG-14, open_clip names)
    width: int  # channels
    layers: int  # transformer layers
    heads: int
    layer_idx: int  # hidden_states[layer_idx] is the context; 0 is the embedding
    embed_dim: int = 0  # channels of the pooled output; open_clip only
    learned: int = 0  # rows of the token table beyond CLIP's own: words of textual inversion


@dataclass(frozen=True)
class VAEConfig:
    in_channels: int = 3
    out_ch: int = 3
    ch: int = 128  # channels of the first level
    ch_mult: Tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    embed_dim: int = 4


SIZE_NUMBERS = {"original_size_as_tuple": 2, "crop_coords_top_left": 2, "target_size_as_tuple": 2, "aesthetic_score": 1}
BASE_SIZES = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
REFINER_SIZES = ("original_size_as_tuple", "crop_coords_top_left", "aesthetic_score")


@dataclass(frozen=True)
class ModelConfig:
    unet: UNetConfig
    text_encoders: Tuple[TextEncoderConfig, ...]  # "clip" and "open_clip", or of the refiner "open_clip" alone
    vae: VAEConfig
    size_embed_dim: int = 256  # channels of each of the size numbers in the vector
    size_keys: Tuple[str, ...] = BASE_SIZES  # which numbers SDXL is told, in the vector's order
    scale_factor: float = 0.13025  # latent = scale_factor * VAE posterior sample
    num_timesteps: int = 1000  # indices of the training noise schedule
    prediction: str = "eps"  # what the UNet's output is: "eps", the noise, "v" (arXiv 2202.00512) or "x0", the latent
    zero_terminal_snr: bool = False  # the last index is noise alone (arXiv 2305.08891)

    @property
    def context_dim(self) -> int:
        """Channels of the text context."""
        return sum(encoder.width for encoder in self.text_encoders)

    @property
    def pooled_dim(self) -> int:
        """Channels of the pooled text, which the last encoder gives."""
        return self.text_encoders[-1].embed_dim

    @property
    def size_count(self) -> int:
        """How many size numbers it is told."""
        return sum(SIZE_NUMBERS[key] for key in self.size_keys)

    @property
    def is_refiner(self) -> bool:
        """Whether it is SDXL's second model, which knows one text encoder and the aesthetic score."""
        return self.size_keys == REFINER_SIZES


@dataclass(frozen=True)
class ProdigyConfig:
    """What Prodigy has beside the numbers of Adam."""

    beta3: Optional[float] = None  # decay of the sums that d is estimated from; None: the root of beta2
    decouple: bool = True  # weight decay beside the gradient, as AdamW's; False: in it
    safeguard_warmup: bool = False  # the rate does not count in the denominator of d
    d0: float = 1e-6  # d at the start
    d_coef: float = 1.0  # the estimate of d times this
    growth_rate: Optional[float] = None  # d grows at most by this factor an update; None: as fast as it will


@dataclass(frozen=True)
class AdafactorConfig:
    eps1: float = 1e-30  # added to the squared gradient
    eps2: float = 1e-3  # least root mean square of a matrix that scales its rate
    clip_threshold: float = 1.0  # largest root mean square of a matrix's update before the rate
    decay_rate: float = -0.8  # the second moments of update t decay by 1 - t^decay_rate
    beta1: Optional[float] = None  # decay of the first moment; None: there is none
    scale_parameter: bool = True  # a matrix's rate is times its root mean square
    relative_step: bool = False  # the rate is 1 / sqrt(t), at most 0.01
    warmup_init: bool = False  # of a relative step: at most 1e-6 t instead of 0.01


@dataclass(frozen=True)
class OptimConfig:
    base_learning_rate: float = 1e-4
    bias_correction: bool = True  # False is mindspore.nn.AdamWeightDecay
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    schedule: str = "constant"  # the factor after the warm-up: a name of gm.optimizers.rates.SCHEDULES
    warmup_steps: int = 0  # updates over which the factor rises from 0 to 1
    final_factor: float = 0.0  # factor at total_step for linear, cosine and polynomial
    warmup_share: float = 0.0  # the warm-up as a share of total_step instead
    num_cycles: int = 1  # of a cosine with restarts
    power: float = 1.0  # of a polynomial
    optimizer: str = "AdamW"  # a name of gm.optimizers.table.OPTIMIZERS
    prodigy: ProdigyConfig = ProdigyConfig()
    adafactor: AdafactorConfig = AdafactorConfig()
    rates: Mapping[str, float] = field(default_factory=dict)  # network -> its rate, where it is not base_learning_rate
    text_encoder_stop_share: float = 1.0  # of total_step, after which the text encoders stay as they are
    lora_plus_ratio: float = 1.0  # the rate of every lora_B over that of its lora_A (arXiv 2402.12354)
    scale_weight_norms: Optional[float] = None  # largest norm of a module's alpha / rank * B A; None: any
    ema_decay: Optional[float] = None  # of the moving average that is saved instead of the weights; None: there is none


@dataclass(frozen=True)
class CaptionConfig:
    """What is said about a photo. Where nothing else is said, the meaning is sd-scripts'."""

    extensions: Tuple[str, ...] = (".txt", ".caption")  # of caption files beside photos; none: the prompt for all
    trigger: Optional[str] = None  # word in place of [trigger], or in front of a caption without it
    prefix: Optional[str] = None  # words in front of every caption
    suffix: Optional[str] = None  # words behind it
    separator: str = ","  # between tags
    keep_tokens: int = 0  # tags that stay in front
    keep_tokens_separator: Optional[str] = None  # what parts the tags that stay from the others, instead of a number
    shuffle: bool = False  # tags in another order every time
    tag_dropout: float = 0.0  # probability of a tag to be left out
    dropout: float = 0.0  # probability of a caption to be empty
    variants: int = 10  # of a photo's caption with shuffle or tag_dropout, where the embeddings are kept


@dataclass(frozen=True)
class BucketConfig:
    """Shapes other than a square, as sd-scripts makes them."""

    max_buckets: int  # shapes; each is a compilation
    step: int  # pixels; sides are multiples of it
    smallest: int  # pixels of a side
    largest: int
    upscale: bool  # False: no photo is enlarged


@dataclass(frozen=True)
class MaskConfig:
    """How masks of photos act in the loss."""

    unmasked_weight: float = 0.1  # what black counts, white being 1
    normalise: bool = False  # divide by the mean of the mask
    prior_weight: float = 0.0  # of keeping what is masked out as the model without LoRA has it
    folder: Optional[str] = None  # of masks with the photos' names; None: NAME-masklabel.png beside each photo


@dataclass(frozen=True)
class ConceptConfig:
    """One of several subjects."""

    instance_data_path: str
    instance_prompt: Optional[str]
    class_data_path: Optional[str]
    class_prompt: Optional[str]
    repeats: Optional[int]  # of its photos in an epoch; None: --train_data_repeat
    weight: float = 1.0  # of its losses


MAX_TOKENS = (75, 150, 225)
PROMPT_STYLES = ("plain", "a1111", "comfyui")  # how a prompt is read


@dataclass(frozen=True)
class DataConfig:
    per_batch_size: int = 1  # instance samples, and as many class samples, per micro-batch and device
    total_step: int = 1000  # optimizer updates
    num_parallel_workers: int = 1  # threads that read photos
    shuffle: bool = True
    target_size: int = 1024  # pixels, height and width
    interpolation: int = 3  # Pillow's resampling number: 3 is bicubic
    crop: str = "random"  # where the square is cut from a non-square photo: "random" or "center"
    captions: CaptionConfig = CaptionConfig()
    buckets: Optional[BucketConfig] = None  # None: every crop is a square
    masks: Optional[MaskConfig] = None  # None: every pixel counts alike
    concepts: Tuple[ConceptConfig, ...] = ()  # () is one, of the command line
    max_tokens: int = 75  # of a prompt, one of MAX_TOKENS: text is encoded in chunks of 75


@dataclass(frozen=True)
class WeightingConfig:
    """How much each noise level counts in the loss."""

    name: str = "EpsWeighting"  # of gm.diffusion.weighting.WEIGHTINGS
    params: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NoiseConfig:
    """What noise is trained on."""

    offset_noise_level: float = 0.0  # times one number a channel is added to its noise
    multires_noise_iterations: int = 0  # layers of ever coarser noise that are added; 0: none
    multires_noise_discount: float = 0.3  # factor from each of these layers to the next
    input_perturbation: float = 0.0  # times further noise is added in the network's input alone
    min_timestep: int = 0  # the first index that is drawn
    max_timestep: int = 1000  # the one after the last


@dataclass(frozen=True)
class LossConfig:
    """What is made of an error of the network's output."""

    loss_type: str = "l2"  # "l2", "huber" or "smooth_l1"
    huber_c: float = 0.1  # the error from which on the last two grow like |error|
    huber_schedule: str = "snr"  # how that depends on the noise level: "snr", "exponential" or "constant"


@dataclass(frozen=True)
class SampleSettings:
    """How a picture is sampled."""

    height: int  # pixels
    width: int  # pixels
    sizes: Tuple[float, ...]  # what SDXL is told: original (h, w), crop (top, left), target (h, w), pixels
    sampler: str = "EulerEDMSampler"
    steps: int = 40
    guider: str = "VanillaCFG"
    guidance_scale: float = 5.0
    discretization: str = "LegacyDDPMDiscretization"
    guidance_rescale: float = 0.0  # 0 ... 1, see gm/diffusion/guidance.py
    guided_steps: Tuple[float, float] = (0.0, 1.0)  # shares of the steps between which there is guidance
    negative_sizes: Optional[Tuple[float, ...]] = None  # what SDXL is told beside the negative prompt; None: `sizes`
    noise: str = "native"  # whose pictures a seed gives: a name of gm/sampling/noise.py
    eta: Optional[float] = None  # 0 ... 1, how much of a step's noise is fresh; None: what is usual for the sampler

    @classmethod
    def of(cls, height: int, width: int, steps: int) -> "SampleSettings":
        """The defaults for a picture that is nobody's crop."""
        return cls(height, width, (height, width, 0, 0, height, width), steps=steps)

    @classmethod
    def square(cls, size: int, steps: int) -> "SampleSettings":
        """`of` a square."""
        return cls.of(size, size, steps)


@dataclass(frozen=True)
class Config:
    """A checked YAML. `raw` is the resolved YAML text that is written beside the results."""

    version: str
    model: ModelConfig
    lora: Mapping[str, LoraConfig]  # network ("unet", "text_encoder_1", "text_encoder_2") -> its LoRA, where it has one
    optim: Optional[OptimConfig]
    data: Optional[DataConfig]
    raw: str
    weighting: WeightingConfig = WeightingConfig()
    noise: NoiseConfig = NoiseConfig()
    loss: LossConfig = LossConfig()

    @property
    def trains_text_encoders(self) -> bool:
        return any(network != "unet" for network in self.lora)
