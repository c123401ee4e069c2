"""Print the median seconds of an all-reduce of so many bytes: `mpirun -n 2 python bench/all_reduce.py BYTES`."""

import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from gm import runtime
from gm.parallel import collectives
from gm.parallel.launch import join

ROUNDS = 20


def main(size: int) -> None:
    """Two rounds to warm up, then ROUNDS that count."""
    ranks = join(50)
    runtime.start(runtime.CPU, 0, ranks=ranks)
    import mindspore as ms

    add, numbers, seconds = collectives.sum_cell(), ms.Tensor(np.ones(size // 4, np.float32)), []
    for _ in range(ROUNDS + 2):
        ranks.barrier()
        start = time.perf_counter()
        add(numbers).asnumpy()
        seconds.append(time.perf_counter() - start)
    if ranks.is_main:
        print(statistics.median(seconds[2:]), flush=True)
    ranks.leave()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
