"""Products B A of two thin matrices and what comes near them: norms, singular values, cutting to a rank. numpy only.

B (out, rank), A (rank, in), as in LoRA (arXiv 2106.09685). The product, which is as large as the weight, is not formed
where its factors will do.
"""

import numpy as np

from gm.randomness import SKETCH, generator

Svd = tuple[np.ndarray, np.ndarray, np.ndarray]  # U (out, k), S (k,), V^T (k, in)

_OVERSAMPLING, _ITERATIONS = 16, 4


def product_norm(b: np.ndarray, a: np.ndarray) -> float:
    """Frobenius norm of B A, from the two rank x rank Gram matrices: |B A|^2 = sum((B^T B) * (A A^T))."""
    b, a = b.astype(np.float64), a.astype(np.float64)
    return float(np.sqrt(max(np.sum((b.T @ b) * (a @ a.T)), 0.0)))


def product_svd(b: np.ndarray, a: np.ndarray) -> Svd:
    """Singular values and vectors of B A: those of the small core between the QR factors of B and A^T, in float64."""
    q_b, r_b = np.linalg.qr(b.astype(np.float64))
    q_a, r_a = np.linalg.qr(a.T.astype(np.float64))
    u, s, vt = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return q_b @ u, s, vt @ q_a.T


def truncated_svd(matrix: np.ndarray, rank: int) -> Svd:
    """The first `rank` singular values and vectors of a matrix (out, in), fewer when it has fewer.

    Large matrices by subspace iteration from a fixed random start (arXiv 0909.4061, algorithms 4.4 and 5.1): exact when
    the matrix has no more than rank + 16 singular values above 0, else within about a percent of the best there is.
    """
    width = rank + _OVERSAMPLING
    if 4 * width >= min(matrix.shape):
        u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    else:
        q = generator(0, SKETCH).standard_normal((matrix.shape[1], width)).astype(matrix.dtype)
        for _ in range(_ITERATIONS):
            q = np.linalg.qr(matrix.T @ np.linalg.qr(matrix @ q)[0])[0]
        u, s, inner = np.linalg.svd(matrix @ q, full_matrices=False)
        vt = inner @ q.T
    return u[:, :rank], s[:rank], vt[:rank]


def rank_for(singular_values: np.ndarray, keep: float) -> int:
    """The smallest rank, at least 1, whose singular values hold this share of the energy (the sum of their squares)."""
    energy = np.cumsum(np.square(singular_values, dtype=np.float64))
    return int(min(np.searchsorted(energy, keep * energy[-1]) + 1, len(energy))) if energy[-1] > 0 else 1


def factors(svd: Svd, rank: int, fresh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """B (out, rank) and A (rank, in), float32, with half of each singular value in either.

    Where there are fewer than `rank`, A goes on with the rows of `fresh` (rank, in) and B with zeros, as a LoRA begins:
    the product is the same and the added part can be trained.
    """
    u, s, vt = svd[0][:, :rank], svd[1][:rank], svd[2][:rank]
    half = np.sqrt(s)
    b = np.zeros((u.shape[0], rank), np.float32)
    a = fresh.astype(np.float32)
    b[:, : len(s)], a[: len(s)] = u * half, half[:, None] * vt
    return b, a
