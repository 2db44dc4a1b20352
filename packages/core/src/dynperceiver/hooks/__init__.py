"""Hooks for MMEngine's runner."""

from .datasets import innermost_datasets
from .non_finite_loss import NonFiniteLossHook
from .resumable_randomness import ResumableRandomnessHook, SeedSample
from .skipped_samples import SkippedSampleHook
from .test_scalars import TestScalarsHook

__all__ = [
    'NonFiniteLossHook',
    'ResumableRandomnessHook',
    'SeedSample',
    'SkippedSampleHook',
    'TestScalarsHook',
    'innermost_datasets',
]
