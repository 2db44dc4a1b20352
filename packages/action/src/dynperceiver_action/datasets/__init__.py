"""Video data sets of mmaction2 that name missing data, skip broken files in training and refuse them in testing."""

from dynperceiver.data import BadSampleError, BadSampleMixin, Fault, Reason

from .arid6 import Arid6Dataset
from .datasets import RawframeDataset, VideoDataset
from .diagnosis import diagnose_raw_frames, diagnose_video

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
