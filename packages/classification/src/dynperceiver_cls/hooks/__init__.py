"""Hooks for training and testing on images."""

from .draw_predictions import DrawPredictionsHook, draw_image

__all__ = ['DrawPredictionsHook', 'draw_image']
