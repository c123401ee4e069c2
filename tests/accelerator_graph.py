"""Compile the training graph that an accelerator runs, as far as a CPU can: stock kernels, float16, without a backend.

Prints as JSON {"vanilla": {operator: number}, "flash-attention": {...}}: what is left when MindSpore's front end is done.
A process of its own: MindSpore reads the environment once. Of the graph after each pass it writes only the one that is read.
"""

import json
import os
import re
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

os.environ |= {"MS_DEV_PRECOMPILE_ONLY": "1", "MS_DEV_DUMP_IR_PASSES": "validate", "GLOG_v": "3"}
sys.path[:0] = [str(folder) for folder in (Path(__file__).parent, Path(__file__).parent.parent)]

import mindspore as ms
import numpy as np

import small
import tiny
from gm import runtime
from gm.models import sdxl
from gm.models.adapters import adapters_of
from gm.training.batches import MicroBatch
from gm.training.step import LossScale, Trainer

OPERATOR = re.compile(r"= (?:PrimFunc_|DoSignaturePrimitive::S-Prim-|Primitive::)?([A-Z]\w+)\(")


def operators(attention: str, folder: str) -> Counter:
    """How often each occurs in the micro-batch's graph, of the small model with this kind of attention."""
    model = small.model()
    model = replace(model, unet=replace(model.unet, attention=attention))
    config = replace(tiny.config(), model=model)
    unet = sdxl.build_unet(model, ms.float16, adapters_of(model, config.lora), text_products=True)
    trainer = Trainer(config, unet, None, LossScale(1024.0, False), read=lambda name: np.zeros(shapes[name]))
    text = np.zeros((2, 77, unet.context_width), np.float32), np.zeros((2, model.text_encoders[1].embed_dim), np.float32)
    ms.set_context(save_graphs=1, save_graphs_path=folder)
    trainer.compile(MicroBatch.blank((2, 4, 16, 16), text))
    (graph,) = Path(folder).rglob("*_validate_*.ir")
    return Counter(OPERATOR.findall(graph.read_text()))


if __name__ == "__main__":
    runtime.composes_kernels = lambda: False
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE)
    shapes = sdxl.expected_shapes(small.model(), adapters_of(small.model(), tiny.lora()))[1]
    found = {}
    for kind in ("vanilla", "flash-attention"):
        with tempfile.TemporaryDirectory() as written:
            found[kind] = operators(kind, written)
    print(json.dumps(found))
