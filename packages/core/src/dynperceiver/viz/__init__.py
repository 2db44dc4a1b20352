"""Pictures."""

from .exits import plot_exit_tradeoff, read_exit_accuracies

__all__ = ['plot_exit_tradeoff', 'read_exit_accuracies']
