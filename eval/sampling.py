"""Several answers to each question: avg@k, unbiased pass@k, maj@k."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def pass_at_k(correct: ArrayLike, n: ArrayLike, k: int) -> NDArray[np.float64]:
    """Chance that at least one of k answers drawn from n is right, for each question [q] with `correct` right ones.

    1 - C(n - c, k) / C(n, k) as a product (Chen et al. 2021, arXiv 2107.03374). Raises ValueError where k > n.
    """
    c, total = np.broadcast_arrays(np.asarray(correct, float), np.asarray(n, float))
    if k < 1 or np.any(total < k):
        raise ValueError(f"k={k} must be from 1 to the number of answers, {total.min():.0f}")
    steps = np.arange(k)
    factors = np.clip((total - c)[..., None] - steps, 0, None) / (total[..., None] - steps)
    return np.asarray(1.0 - factors.prod(axis=-1))


def majority(choices: Sequence[str | None], answer: str) -> float:
    """Score of the most frequent choice. Unread answers have no vote; of t tied choices the right one scores 1/t."""
    votes = Counter(choice for choice in choices if choice is not None)
    most = [choice for choice, count in votes.items() if count == max(votes.values())]
    return 1 / len(most) if answer in most else 0.0
