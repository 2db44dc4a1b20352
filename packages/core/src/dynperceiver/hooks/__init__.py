"""Hooks for MMEngine's runner."""

from .non_finite_loss import NonFiniteLossHook
from .test_scalars import TestScalarsHook

__all__ = ['NonFiniteLossHook', 'TestScalarsHook']
