"""Hooks for MMEngine's runner."""

from ..checkpoint import CheckpointError
from .averaged_buffers import SyncAveragedBuffersHook
from .checkpoint_file import CheckpointFileHook, checkpoint_name
from .class_names import ClassNamesHook
from .draw_exits import DrawExitsHook, describe_exits, write_below
from .exit_policy import ExitPolicyHook, TimedRunner, read_exit_policy
from .non_finite_loss import NonFiniteError, NonFiniteLossHook
from .reference_checkpoint import ReferenceCheckpointHook
from .resumable_randomness import ResumableRandomnessHook, SeedSample
from .skipped_samples import SkippedSampleHook
from .split_record import SplitRecordHook
from .test_scalars import TestScalarsHook

__all__ = [
    'CheckpointError',
    'CheckpointFileHook',
    'ClassNamesHook',
    'DrawExitsHook',
    'ExitPolicyHook',
    'NonFiniteError',
    'NonFiniteLossHook',
    'ReferenceCheckpointHook',
    'ResumableRandomnessHook',
    'SeedSample',
    'SkippedSampleHook',
    'SplitRecordHook',
    'SyncAveragedBuffersHook',
    'TestScalarsHook',
    'TimedRunner',
    'checkpoint_name',
    'describe_exits',
    'read_exit_policy',
    'write_below',
]
