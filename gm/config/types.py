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


@dataclass(frozen=True)
class VAEConfig:
    in_channels: int = 3
    out_ch: int = 3
    ch: int = 128  # channels of the first level
    ch_mult: Tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    embed_dim: int = 4


@dataclass(frozen=True)
class ModelConfig:
    unet: UNetConfig
    text_encoders: Tuple[TextEncoderConfig, TextEncoderConfig]
    vae: VAEConfig
    size_embed_dim: int = 256  # channels of each of the six size numbers in the vector
    scale_factor: float = 0.13025  # latent = scale_factor * VAE posterior sample
    num_timesteps: int = 1000  # indices of the training noise schedule


@dataclass(frozen=True)
class OptimConfig:
    base_learning_rate: float = 1e-4
    bias_correction: bool = True  # False is mindspore.nn.AdamWeightDecay
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    schedule: str = "constant"  # "constant", "linear" or "cosine": the factor after the warm-up
    warmup_steps: int = 0  # updates over which the factor rises from 0 to 1
    final_factor: float = 0.0  # factor at total_step for linear and cosine


@dataclass(frozen=True)
class DataConfig:
    per_batch_size: int = 1  # instance samples, and as many class samples, per micro-batch and device
    total_step: int = 1000  # optimizer updates
    num_parallel_workers: int = 1  # threads that read photos
    shuffle: bool = True
    target_size: int = 1024  # pixels, height and width
    interpolation: int = 3  # Pillow's resampling number: 3 is bicubic
    crop: str = "random"  # where the square is cut from a non-square photo: "random" or "center"


@dataclass(frozen=True)
class WeightingConfig:
    """How much each noise level counts in the loss."""

    name: str = "EpsWeighting"  # of gm.diffusion.weighting.WEIGHTINGS
    params: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleSettings:
    """How a picture is sampled."""

    height: int  # pixels
    width: int  # pixels
    sizes: tuple[int, int, int, int, int, int]  # original (h, w), crop (top, left), target (h, w), pixels
    sampler: str = "EulerEDMSampler"
    steps: int = 40
    guider: str = "VanillaCFG"
    guidance_scale: float = 5.0
    discretization: str = "LegacyDDPMDiscretization"

    @classmethod
    def square(cls, size: int, steps: int) -> "SampleSettings":
        """The defaults for a square picture that is nobody's crop."""
        return cls(size, size, (size, size, 0, 0, size, size), steps=steps)


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

    @property
    def trains_text_encoders(self) -> bool:
        return any(network != "unet" for network in self.lora)
