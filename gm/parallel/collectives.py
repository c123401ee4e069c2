"""Tensors between the ranks, through MindSpore's collectives: HCCL on Ascend, MindSpore's own on the CPU.

MindSpore is imported when a function is called: the environment of the ranks comes before.
"""

import numpy as np

from gm.parallel.ranks import Ranks

PIECE = 4 * 2**20  # numbers summed at once


def open_collectives(ranks: Ranks) -> None:
    """Join MindSpore's collectives; after `ranks.open_cluster` and the choice of the device."""
    from mindspore.communication import get_group_size, get_rank, init

    init()
    assert (get_rank(), get_group_size()) == (ranks.rank, ranks.size), "MindSpore numbers the ranks in another way"


def gather_rows(rows: np.ndarray, ranks: Ranks) -> np.ndarray:
    """The float32 rows (n, ...) of all ranks in the order of the ranks, (sum of n, ...); n may differ, and be 0 when
    the shape of a row is given: (0, ...)."""
    if ranks.size == 1:
        return rows
    counts = ranks.share(len(rows))
    whole = np.zeros((sum(counts), *rows.shape[1:]), np.float32)
    first = sum(counts[: ranks.rank])
    whole[first : first + len(rows)] = rows  # zero in the places of the others, so that the sum over ranks is the whole
    return _sum_over_ranks(whole.reshape(-1), ranks).reshape(whole.shape)


def sum_cell():
    """A network that sums its argument over all ranks."""
    from mindspore import nn, ops

    class Sum(nn.Cell):
        def __init__(self):
            super().__init__()
            self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM)

        def construct(self, x):
            return self.all_reduce(x)

    return Sum()


def _sum_over_ranks(flat: np.ndarray, ranks: Ranks) -> np.ndarray:
    import mindspore as ms

    add, total = sum_cell(), np.empty_like(flat)
    for start in range(0, len(flat), PIECE):
        piece = np.zeros(PIECE, np.float32)
        part = flat[start : start + PIECE]
        piece[: len(part)] = part
        ranks.barrier()  # a rank that comes 15 s later than another breaks MindSpore's CPU collectives
        total[start : start + PIECE] = add(ms.Tensor(piece)).asnumpy()[: len(part)]
    return total
