"""The studio in a browser: streamlit run demo/sampling.py --server.port 8501

From photos to a LoRA, and pictures with it. Flags after `--` are those of sampling_without_streamlit.py and say what the
pictures start with, and those of studio/access.py. The page itself is studio/shell.py.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[:2] if str(folder) not in sys.path]

from studio.models import Model

# What can be chosen; the page starts on the first.
MODELS = [
    Model(
        name="Small SDXL",
        flags={
            "config": "configs/inference/small_sdxl.yaml",
            "height": 64,
            "width": 64,
            "sample_step": 20,
            "num_cols": 4,
            "prompt": "A photo of a dog on a beach",
        },
        weights=["checkpoints/small_sdxl.safetensors"],
        training={device: "configs/training/small_dreambooth_lora_cpu.yaml" for device in ("CPU", "Ascend", "GPU")},
    ),
    Model(
        name="SDXL-base-1.0",
        flags={
            "config": "configs/inference/sd_xl_base.yaml",
            "height": 1024,
            "width": 1024,
            "sample_step": 40,
            "prompt": "a photo of a dog on a beach",
        },
        weights=[
            "checkpoints/sd_xl_base_1.0_ms.ckpt",
            "checkpoints/sd_xl_base_1.0.safetensors",
            "checkpoints/sd_xl_base_1.0",
            "checkpoints/stable-diffusion-xl-base-1.0",
        ],
        training={
            "CPU": "configs/training/sd_xl_base_finetune_dreambooth_lora_cpu.yaml",
            "Ascend": "configs/training/sd_xl_base_finetune_dreambooth_lora_910b.yaml",
            "GPU": "configs/training/sd_xl_base_finetune_dreambooth_lora_910b.yaml",
        },
    ),
]

if __name__ == "__main__":
    from studio.shell import main

    main({model.name: model for model in MODELS}, sys.argv[1:])
