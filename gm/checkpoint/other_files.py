"""What a file is that holds no LoRA, LoCon or DoRA of two matrices a layer, told by the names of its tensors. No files here."""

import re
from typing import Iterable, Optional

# the first kind that a name shows is the file's
_KINDS = (
    (r"\.hada_", "LoHa matrices"),
    (r"\.lokr_", "LoKr matrices"),
    (r"\.b?oft_", "OFT matrices"),
    (r"\.lora_mid\.", "Tucker-decomposed convolution matrices"),
    (r"\.(?:[ab][12]|bm[12])\.weight$", "GLoRA matrices"),
    (r"\.(?:ia3_|on_input$)", "IA3 vectors"),
    (r"\.vera_lambda", "VeRA vectors"),
    (r"\.lora_embedding_[AB]", "LoRA of embeddings"),
    (r"\.(?:lora_B|lora_up)(?:\.default)?\.bias$", "biases beside the LoRA matrices (lora_bias)"),
    (r"\.[wb]_norm$", "trained norms (LyCORIS' train_norm)"),
    (r"\.(?:diff|diff_b|set_weight|reshape_weight)$", "whole differences of weights (LyCORIS' full)"),
    (r"^lora_controlnet$|^control_model\.|^controlnet_", "a ControlNet"),
    (r"^lllite_", "a ControlNet-LLLite"),
    (r"^(?:ip_adapter|image_proj)\.", "an IP-Adapter"),
    (r"motion_modules\.", "motion modules of AnimateDiff"),
    (r"^(?:clip_[lg]|emb_params|string_to_param.*|bundle_emb\..*)$", "a textual inversion embedding"),
)
_PATTERN = re.compile("|".join(f"(?P<k{i}>{pattern})" for i, (pattern, _) in enumerate(_KINDS)))
_OTHER_MODELS = (
    (re.compile(r"double_blocks|single_blocks|single_transformer_blocks|^transformer\.|^lora_transformer_|^lora_te3_"), "Flux or SD 3"),
    (re.compile(r"^lora_prior_|^lora_unet_(?:down|up)_blocks_\d+_\d+_"), "Stable Cascade"),
    (
        re.compile(
            r"down_blocks[._]0[._]attentions|up_blocks[._]3[._]attentions|(?:input_blocks[._][12]|output_blocks[._](?:9|10|11))[._]1[._]"
        ),
        "Stable Diffusion 1 or 2",
    ),
)  # fmt: skip


def other_kind(names: Iterable[str]) -> Optional[str]:
    """In words what the tensors are, where one of them shows it; None for LoRA, weights and what is unknown."""
    found = {int(match.lastgroup[1:]) for match in map(_PATTERN.search, names) if match and match.lastgroup}
    return _KINDS[min(found)][1] if found else None


def other_model(names: Iterable[str]) -> Optional[str]:
    """The model that a LoRA seems to be of, by names that SDXL's have not."""
    names = list(names)
    return next((model for pattern, model in _OTHER_MODELS if any(map(pattern.search, names))), None)
