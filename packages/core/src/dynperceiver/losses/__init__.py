"""Training losses."""

from .multi_exit import MultiExitLoss

__all__ = ['MultiExitLoss']
