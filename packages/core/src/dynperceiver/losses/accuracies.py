"""Accuracies of a training batch, for the log.

Shape suffixes: S samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ['batch_accuracies']


@torch.no_grad()
def batch_accuracies(logits_SK: Sequence[Tensor], target: Tensor, topk: Sequence[int] = (1, 5)) -> dict[str, Tensor]:
    """Top-k accuracy of every exit on a batch.

    Args:
        logits_SK: Logits of the exits, each (S, K).
        target: Class numbers (S,), or class probabilities (S, K), whose largest counts.
        topk: Values of k; larger ones than the number of classes count as that.

    Returns:
        ``exit1_top1``, ``exit1_top5`` .. as scalars in [0, 1].
    """
    hard_S = target if target.dim() == 1 else target.argmax(1)
    results = {}
    for number, logits in enumerate(logits_SK, 1):
        hits_Sk = logits.topk(min(max(topk), logits.shape[1]), 1).indices == hard_S[:, None]
        for k in topk:
            results[f'exit{number}_top{k}'] = hits_Sk[:, :k].any(1).float().mean()
    return results
