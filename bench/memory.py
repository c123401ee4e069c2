"""What fits: the device memory of a training step at full size, counted from the graph that MindSpore compiles.

    python bench/memory.py --output bench/memory.md     15 minutes of one core, 5 GB of memory, 1 GB of disk

The graph is the accelerator's (stock kernels), compiled on a CPU and not run; its text is read when MindSpore has optimized
it and not yet chosen kernels. A tensor lives from the node that makes it to the last one that reads it. Nodes run as their
inputs get ready, and take memory as from MindSpore's pool: the smallest free piece that is large enough, else a new block.

One graph serves all sizes: it is compiled for PRIMES rows, rank and side, which divide nothing else in SDXL, so the powers of
these primes in a tensor's number of elements say how it grows.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from bisect import bisect_left, insort
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from importlib.metadata import version
from itertools import product
from math import ceil, inf, prod
from pathlib import Path
from typing import Iterable, Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PRIMES = (13, 17, 23)  # rows, rank, and side of the smallest latent level: pixels / 32
BYTES = {"Float16": 2, "Float32": 4, "Bool": 1, "Int32": 4, "Int64": 8}
BLOCK, ALIGNED = 2**30, 512  # bytes by which MindSpore's pool grows, and of its smallest piece
WITHOUT_KERNEL = ("Load", "UpdateState", "Depend", "Reshape", "MakeTuple", "TupleGetItem", "Return")
DUMP = "hwopt_d_before_optimization"  # MindSpore's name for the graph after its passes for all devices
CONTEXT = 253  # MiB of a process on the H100: what all its figures have beyond whole GiB
MEASURED = {  # MiB on an NVIDIA H100, 2 rows, rank 4, float16 with stock kernels: graphs, pixels, figure
    "1024 px, vanilla": (("vanilla",), 1024, 58621),
    "1024 px, vanilla, recompute": (("vanilla recompute",), 1024, 19709),
    "1024 px, vanilla, LoRA in the text encoders too": (("vanilla text",), 1024, 61693),
    "512 px, vanilla": (("vanilla",), 512, 11517),
    "1024 px, vanilla, recompute, float32 (O0)": (("vanilla recompute float32",), 1024, 28925),
    "1024 px, sampling with guidance": (("vanilla denoise", "decode"), 1024, 15611),
}
COLUMNS = ("vanilla", "vanilla recompute", "flash-attention", "flash-attention recompute")
FITS = ((30.0, "32"), (62e9 / 2**30, "64"), (inf, "-"))  # usable GiB, and the GB that such an NPU is sold with
PAGE = """# What fits

Device memory of full-size SDXL, LoRA in the UNet, by `python bench/memory.py`. **Counted, not run on Ascend.**

How it was counted: the graph of a step's forward and backward pass, with an accelerator's operators, was compiled by MindSpore
{version} and not run. A tensor lives from the operator that makes it to the last one that reads it; operators run when their
inputs are ready. To this come the weights, what is fed, and of the LoRA the matrices and in float32 both moments, their
vector and the summed gradient. "Alive" is the sum at the peak. "In the pool" is what MindSpore's memory pool takes for it, which is
simulated: it grows by blocks of 1 GiB, and has gaps. Not counted: working memory inside an operator (convolutions above all),
the driver and CANN, communication buffers of several devices.

Measured on an NVIDIA H100, random weights, 2 rows (an instance and a class sample), rank 4, float16 (O2) unless it says float32.
All figures are {context} MiB (or 2 less) more than whole GiB, taken for the driver's part and added to the pool. The order was
chosen to fit: in that of the graph's text, recompute comes 16-18 % too high. A third of sampling is not explained. MiB:

| setting | measured | in the pool | difference | alive |
|---|---|---|---|---|
{measured}

What fits: GiB alive / GiB in the pool, float16 (O2), without the driver's part. 2 rows are `per_batch_size: 1` with class
images, 4 rows `per_batch_size: 2`. In brackets the smallest NPU by the pool: 32 GB (30 GiB usable), 64 GB (62e9 bytes usable),
or - for neither; with ? where less than a tenth would be left, which is no more than the differences above.

| pixels | rows | rank | {columns} |
|---|---|---|---|---|---|---|
{fits}
"""

Size = tuple[int, int, int, int]  # bytes = first * rows^second * rank^third * side^fourth
Buffer = tuple[int, int]  # number of the node, and which of its outputs


@dataclass(frozen=True)
class Node:
    operator: str
    inputs: tuple[int, ...]  # nodes
    outputs: tuple[Size, ...]
    index: int = 0  # of a TupleGetItem


def in_bytes(size: Size, at: Sequence[float]) -> int:
    """`at`: rows, rank, and pixels / 32."""
    return int(size[0] * at[0] ** size[1] * at[1] ** size[2] * at[2] ** size[3])


def sizes(types: str) -> tuple[Size, ...]:
    """Of the tensors in MindSpore's text of a type, e.g. `<Tuple[Tensor[Float32]*2], TupleShape((2, 3), (2, 1))>`."""
    names = [name for name, times in re.findall(r"Tensor\[(\w+)\](?:\*(\d+))?", types) for _ in range(int(times or 1))]
    found = []
    for name, shape in zip(names, re.findall(r"\(([\d, ]*)\)", types)):
        left, powers = prod(map(int, re.findall(r"\d+", shape))), [0, 0, 0]
        for place, prime in enumerate(PRIMES):
            while left and left % prime == 0:
                left, powers[place] = left // prime, powers[place] + 1
        found.append((left * BYTES[name], *powers))
    return tuple(found)


def parse(lines: Iterable[str]) -> tuple[dict[int, Node], list[Size]]:
    """The nodes by number, in the order of the text; and what is there before: weights and arguments."""
    nodes, resident, number = {}, [], None
    for line in lines:
        if line.startswith("%para"):
            types = re.split(r", ref_key|  :  ", line.partition(": ")[2])[0]
            lora = 9 if "Float16" in types else 5  # times: beside the matrix, four in float32 (see PAGE)
            resident += [(size[0] * lora if size[2] else size[0], *size[1:]) for size in sizes(types)]
        elif found := re.match(r"  (?:%(\d+)\(.*?\) = )?(?:PrimFunc_)?(\w+)\((.*)", line):
            given = re.split(r"\) (?:primitive|cnode)_", found[3])[0]
            number = int(found[1] or -1)  # the Return has none
            index = re.search(r"I64\((\d+)\)", given) if found[2] == "TupleGetItem" else None
            inputs = tuple(map(int, re.findall(r"%(\d+)(?!\d|_)", given)))
            nodes[number] = Node(found[2], inputs, (), int(index[1]) if index else 0)
        elif line.startswith("      : ") and number is not None:
            nodes[number] = replace(nodes[number], outputs=sizes(line.rpartition(") -> (")[2]))
    return nodes, resident


def lives(nodes: dict[int, Node]) -> list[tuple[list[tuple[Buffer, Size]], list[Buffer]]]:
    """What each kernel makes, and what nobody reads after it; kernels as their inputs get ready."""
    held: dict[int, list[Buffer]] = {}  # node -> the buffers that its value lies in
    last: dict[Buffer, int] = {}
    steps: list[tuple[list[tuple[Buffer, Size]], list[Buffer]]] = []
    for number in TopologicalSorter({number: node.inputs for number, node in nodes.items()}).static_order():
        node = nodes[number]
        given = [held[source] for source in node.inputs]
        if node.operator not in WITHOUT_KERNEL:
            held[number] = [(number, place) for place in range(len(node.outputs))]
            for buffer in [*held[number], *(buffer for buffers in given for buffer in buffers)]:
                last[buffer] = len(steps)
            steps.append((list(zip(held[number], node.outputs)), []))
        elif node.operator in ("MakeTuple", "Return"):
            held[number] = [buffer for buffers in given for buffer in buffers]
        elif node.operator == "TupleGetItem":
            held[number] = given[0][node.index : node.index + 1]
        else:  # a Load gives a weight
            held[number] = given[0] if given and node.operator in ("Reshape", "Depend") else []
    for buffer, step in last.items():
        if buffer not in held[-1]:
            steps[step][1].append(buffer)
    return steps


class Pool:
    """Best fit in blocks of 1 GiB, as MindSpore's DynamicMemPoolBestFit; free neighbours join."""

    def __init__(self) -> None:
        self.total = self.alive = self.most_alive = self.end = 0
        self.free: list[tuple[int, int]] = []  # size, start; sorted
        self.starting: dict[int, int] = {}  # start of a free piece -> its size
        self.ending: dict[int, int] = {}  # its end -> its size
        self.used: dict[Buffer, tuple[int, int]] = {}  # size, start

    def take(self, buffer: Buffer, size: int) -> None:
        size = max(ceil(size / ALIGNED), 1) * ALIGNED
        if not self.free or self.free[-1][0] < size:
            block = ceil(size / BLOCK) * BLOCK
            self._add(block, self.end)
            self.total, self.end = self.total + block, self.end + block + 1  # + 1: blocks do not touch
        length, start = self.free[bisect_left(self.free, (size, -1))]
        self._remove(length, start)
        if length > size:
            self._add(length - size, start + size)
        self.used[buffer] = size, start
        self.alive += size
        self.most_alive = max(self.alive, self.most_alive)

    def give_back(self, buffer: Buffer) -> None:
        size, start = self.used.pop(buffer)
        self.alive -= size
        if before := self.ending.get(start):
            self._remove(before, start - before)
            size, start = size + before, start - before
        if after := self.starting.get(start + size):
            self._remove(after, start + size)
            size += after
        self._add(size, start)

    def _add(self, size: int, start: int) -> None:
        insort(self.free, (size, start))
        self.starting[start] = self.ending[start + size] = size

    def _remove(self, size: int, start: int) -> None:
        self.free.pop(bisect_left(self.free, (size, start)))
        del self.starting[start], self.ending[start + size]


class Graph:
    """One compiled graph, from the lines of its text."""

    def __init__(self, lines: Iterable[str]):
        nodes, self.resident = parse(lines)
        self.steps = lives(nodes)


def peak(graphs: Iterable[Graph], pixels: int, rows: int = 2, rank: int = 4) -> tuple[int, int]:
    """Bytes in the pool, and of these the most that is alive, when these graphs have run one after another."""
    pool, resident, at = Pool(), 0, (rows, rank, pixels / 32)
    for graph in graphs:
        resident += sum(in_bytes(size, at) for size in graph.resident)
        for made, done in graph.steps:
            for buffer, size in made:
                pool.take(buffer, in_bytes(size, at))
            for buffer in done:
                pool.give_back(buffer)
        for buffer in list(pool.used):  # the outputs
            pool.give_back(buffer)
    return pool.total + ceil(resident / BLOCK) * BLOCK, pool.most_alive + resident


def compiled(name: str, folder: Path) -> Graph:
    """The graph of `compile_graph`, whose text is in `folder` or made by a process that is ended when it is whole."""
    place, child = folder / name.replace(" ", "_"), None
    variables = {"MS_DEV_SAVE_GRAPHS": "1", "MS_DEV_SAVE_GRAPHS_PATH": str(place), "MS_DEV_DUMP_IR_PASSES": DUMP}
    while not ((found := list(place.glob(f"{DUMP}*.ir"))) and b"\n}\n" in found[0].read_bytes()[-4096:]):
        if child is None:
            print(f"compiling {name} ...", flush=True)
            child = subprocess.Popen([sys.executable, __file__, "--compile", name], env=os.environ | variables)
        if child.poll() is not None:
            sys.exit(f"MindSpore did not write the graph of {name}: see above")
        time.sleep(0.3)
    if child:
        child.kill()
    with found[0].open(errors="replace") as lines:
        return Graph(lines)


def compile_graph(name: str) -> None:
    """`name`: the attention and words out of recompute, float32, text or denoise; or "decode"."""
    from gm import runtime

    words = name.split()
    (machine := runtime.Runtime("CPU", runtime.GRAPH, "O0" if "float32" in words else "O2")).enter()
    runtime.composes_kernels = lambda: False
    import numpy as np
    from mindspore import Tensor

    from gm.config.load import load_config
    from gm.diffusion.denoiser import Denoiser
    from gm.models import adapters, conditioner, sdxl, vae
    from gm.training.batches import MicroBatch
    from gm.training.step import LossScale, Trainer

    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    rows, rank, side = PRIMES[0], PRIMES[1], 4 * PRIMES[2]
    more = "textencoder_" if "text" in words else ""
    config = load_config(str(ROOT / f"configs/training/sd_xl_base_finetune_dreambooth_{more}lora_910b.yaml"))
    network = replace(config.model.unet, attention=words[0], use_recompute="recompute" in words)
    model, latent, pooled = replace(config.model, unet=network), zeros(rows, 4, side, side), zeros(rows, 1280)
    if name == "decode":
        vae.VAEDecode(sdxl.build_vae(model), model.scale_factor).compile(Tensor(latent[:1]))  # by itself
        return
    if "denoise" in words:
        fed = latent, zeros(rows, 1, 1, 1), zeros(rows), zeros(rows, 77, 2048), pooled, zeros(rows, 6)
        Denoiser(sdxl.build_unet(model, machine.dtype), model).compile(*map(Tensor, fed))
        return
    found = adapters.adapters_of(model, {key: replace(lora, rank=rank, alpha=rank) for key, lora in config.lora.items()})
    unet = sdxl.build_unet(model, machine.dtype, found, "text" not in words)
    encoders = sdxl.build_text_encoders(model, machine.dtype, found) if "text" in words else None
    for cell in filter(None, (unet, encoders)):
        for parameter in cell.trainable_params():
            parameter.set_data(Tensor(zeros(*parameter.shape)))  # the trainer copies them
    fed = conditioner.tokenize([""] * rows) if encoders else (zeros(rows, 77, unet.context_width), pooled)
    batch = MicroBatch.blank(latent.shape, fed)
    shapes = {
        parameter.name: parameter.shape for cell in filter(None, (unet, encoders)) for parameter in cell.trainable_params()
    }
    read = lambda name: zeros(*shapes[name])  # noqa: E731
    Trainer(replace(config, model=model), unet, encoders, LossScale(1024.0, False), read=read).compile(batch)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="/dev/stdout", help="the page to write")
    parser.add_argument("--folder", default="runs/memory", help="of the graphs' texts; delete it to compile anew")
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.compile:
        return compile_graph(options.compile)
    names = dict.fromkeys([name for used, _, _ in MEASURED.values() for name in used] + list(COLUMNS))
    graphs = {name: compiled(name, Path(options.folder).resolve()) for name in names}
    measured, fits = [], []
    for what, (used, pixels, figure) in MEASURED.items():
        pool, alive = (count / 2**20 for count in peak([graphs[name] for name in used], pixels))
        pool += CONTEXT
        measured.append(f"| {what} | {figure:,} | {pool:,.0f} | {pool / figure - 1:+.1%} | {alive:,.0f} |")
    for pixels, rows, rank in product((512, 768, 1024), (2, 4), (4, 64)):
        cells = [str(pixels), str(rows), str(rank)]
        for name in COLUMNS:
            pool, alive = (count / 2**30 for count in peak([graphs[name]], pixels, rows, rank))
            usable, mark = next(fit for fit in FITS if pool <= fit[0])
            cells.append(f"{alive:.1f} / {pool:.0f} ({mark}{'?' if 0.9 * usable < pool <= usable else ''})")
        fits.append(f"| {' | '.join(cells)} |")
    tables = {"measured": "\n".join(measured), "columns": " | ".join(COLUMNS), "fits": "\n".join(fits)}
    Path(options.output).write_text(PAGE.format(version=version("mindspore"), context=CONTEXT, **tables))


if __name__ == "__main__":
    main()
