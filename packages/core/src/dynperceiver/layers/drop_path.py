"""Stochastic depth."""

from __future__ import annotations

from torch import Tensor, nn

from dynperceiver_runtime import UserError

__all__ = ['DropPath']


class DropPath(nn.Module):
    """Drop a residual branch for some rows while training (Huang et al., ECCV 2016), and scale the others up.

    Args:
        drop_prob: Probability, at least 0 and below 1.

    Raises:
        UserError: If ``drop_prob`` is outside.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        if not 0 <= drop_prob < 1:
            raise UserError(f'drop_prob={drop_prob}: a probability of at least 0 and below 1 is needed')
        self.drop_prob = drop_prob

    def forward(self, residual: Tensor) -> Tensor:
        """Shape (B, ...) in and out."""
        if not self.training or self.drop_prob == 0:
            return residual
        keep = residual.new_empty((residual.shape[0],) + (1,) * (residual.dim() - 1)).bernoulli_(1 - self.drop_prob)
        return residual * keep.div_(1 - self.drop_prob)
