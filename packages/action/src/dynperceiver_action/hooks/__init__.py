"""Hooks for training and testing on videos."""

from .draw_predictions import DrawPredictionsHook, draw_clip
from .skipped_samples import SkippedSampleHook

__all__ = ['DrawPredictionsHook', 'SkippedSampleHook', 'draw_clip']
