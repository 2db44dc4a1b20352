"""Hooks for training on videos."""

from .skipped_samples import SkippedSampleHook

__all__ = ['SkippedSampleHook']
