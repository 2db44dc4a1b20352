"""Load what a policy is solved with: the model of a test, and the held-out data in place of the test's."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from ..calibration.held_out_data import check_held_out, fingerprint_of_samples, held_out_data_fault
from .arguments import UsageError
from .runner import build_runner

__all__ = ['Calibration', 'build_calibration']


@dataclass(frozen=True)
class Calibration:
    """What a policy is solved with.

    Attributes:
        model: The model with its weights loaded, in evaluation mode.
        loader: Loader of the held-out samples, in a fixed order, with the pipeline of the test.
        fingerprint: See :func:`fingerprint_of_samples`.
    """

    model: Any
    loader: Any
    fingerprint: str


def build_calibration(cfg: Config) -> Calibration:
    """Load the model of a test, with the held-out data in place of the test's.

    Args:
        cfg: Config of a test, see :func:`~dynperceiver.launch.test_config`, with ``calibration_dataloader``.

    Raises:
        UsageError: If the config has no such loader, or it shuffles, or holds samples of training or test.
        FileNotFoundError: If its data are missing.
        CheckpointError: If the checkpoint cannot be used.
    """
    fault = held_out_data_fault(cfg)
    if fault is not None:
        raise UsageError(f'{cfg.filename}: {fault}')
    settings = copy.deepcopy(cfg)
    settings.test_dataloader = cfg.calibration_dataloader
    if settings.test_dataloader.get('num_workers') == 0:
        settings.test_dataloader.persistent_workers = False
    settings.test_cfg, settings.test_evaluator = dict(), dict(type='dynperceiver.MultiExitAccuracy')
    settings.log_level = 'WARNING'
    runner = build_runner(settings)
    runner.call_hook('before_run')
    checkpoint = runner.load_checkpoint(cfg.load_from)
    runner.call_hook('before_test')
    loader = runner.test_dataloader
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    text = meta.get('cfg')
    check_held_out(cfg, loader.dataset, text if isinstance(text, str) else None, meta.get('split_records'))
    return Calibration(runner.model.eval(), loader, fingerprint_of_samples(loader.dataset))
