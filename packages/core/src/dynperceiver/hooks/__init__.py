"""Hooks for MMEngine's runner."""

from ..checkpoint import CheckpointError
from .averaged_buffers import SyncAveragedBuffersHook
from .checkpoint_file import CheckpointFileHook, checkpoint_name
from .class_names import ClassNamesHook
from .datasets import innermost_datasets
from .draw_exits import DrawExitsHook, describe_exits, write_below
from .exit_policy import ExitPolicyHook, TimedRunner, read_exit_policy
from .non_finite_loss import NonFiniteLossHook
from .reference_checkpoint import ReferenceCheckpointHook
from .resumable_randomness import ResumableRandomnessHook, SeedSample
from .skipped_samples import SkippedSampleHook
from .split_record import SplitRecordHook, split_records
from .test_scalars import TestScalarsHook

__all__ = [
    'CheckpointError',
    'CheckpointFileHook',
    'ClassNamesHook',
    'DrawExitsHook',
    'ExitPolicyHook',
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
    'innermost_datasets',
    'read_exit_policy',
    'split_records',
    'write_below',
]
