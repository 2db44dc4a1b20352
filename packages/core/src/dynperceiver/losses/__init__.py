"""Losses, and what training logs beside them."""

from .accuracies import batch_accuracies
from .multi_exit import MultiExitLoss

__all__ = ['MultiExitLoss', 'batch_accuracies']
