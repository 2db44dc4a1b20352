"""Steps of a video pipeline that mmaction2 lacks."""

from .decord_init import DecordInit
from .exposure import ClipExposure
from .motion import FrameDifference
from .placement import RandomPlacement
from .temporal_flip import TemporalFlip

__all__ = ['ClipExposure', 'DecordInit', 'FrameDifference', 'RandomPlacement', 'TemporalFlip']
