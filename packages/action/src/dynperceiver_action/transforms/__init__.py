"""Steps of a video pipeline that mmaction2 lacks."""

from .exposure import ClipExposure

__all__ = ['ClipExposure']
