"""Metrics over all exits."""

from .multi_exit_accuracy import MultiExitAccuracy, exit_accuracies

__all__ = ['MultiExitAccuracy', 'exit_accuracies']
