"""Sample pictures in a browser: streamlit run demo/sampling.py --server.port 8501

Flags after `--` are those of sampling_without_streamlit.py and say what the page starts with. The page itself is page.py.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[:2] if str(folder) not in sys.path]

# What can be chosen: name -> flags of sampling_without_streamlit.py. The page starts on the first.
VERSION2SPECS = {
    "Small SDXL": {
        "config": "configs/inference/small_sdxl.yaml",
        "weight": "checkpoints/small_sdxl.safetensors",
        "height": 64,
        "width": 64,
        "sample_step": 20,
        "num_cols": 4,
        "prompt": "A photo of a dog on a beach",
    },
    "SDXL-base-1.0": {
        "config": "configs/inference/sd_xl_base.yaml",
        "weight": "checkpoints/sd_xl_base_1.0_ms.ckpt",
        "height": 1024,
        "width": 1024,
        "sample_step": 40,
        "prompt": "a photo of a dog on a beach",
    },
}

if __name__ == "__main__":
    from page import main

    main(VERSION2SPECS, sys.argv[1:])
