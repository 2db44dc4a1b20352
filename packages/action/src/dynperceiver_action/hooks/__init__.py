"""Hooks for training and testing on videos."""

from dynperceiver.hooks import SkippedSampleHook

from ..registry import HOOKS
from .draw_predictions import DrawPredictionsHook, draw_clip

__all__ = ['DrawPredictionsHook', 'SkippedSampleHook', 'draw_clip']

# Its name from before it served every task, for configs that have it.
HOOKS.register_module(module=SkippedSampleHook)
