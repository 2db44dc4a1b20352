"""Video data sets of mmaction2 that name missing data, skip broken files in training and refuse them in testing."""

from .arid6 import Arid6Dataset
from .bad_samples import BadSampleError, BadSampleMixin
from .datasets import RawframeDataset, VideoDataset
from .diagnosis import Fault, Reason, diagnose_raw_frames, diagnose_video

__all__ = [
    'Arid6Dataset',
    'BadSampleError',
    'BadSampleMixin',
    'Fault',
    'RawframeDataset',
    'Reason',
    'VideoDataset',
    'diagnose_raw_frames',
    'diagnose_video',
]
