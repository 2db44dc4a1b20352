"""Metrics of a test in TensorBoard and every other visualiser backend."""

from __future__ import annotations

from numbers import Real

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.loops import BaseLoop

from ..registry import HOOKS

__all__ = ['TestScalarsHook']


@HOOKS.register_module()
class TestScalarsHook(Hook):
    """Write the scalars of a test to the visualiser as ``test/...``; MMEngine's own hook writes those of validation only."""

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write them once the test is over."""
        scalars = {f'test/{name}': value for name, value in (metrics or {}).items() if isinstance(value, Real)}
        if scalars:
            # runner.epoch would build the training loop of a config that is only tested, and with it training data that may be missing.
            epoch = runner.epoch if isinstance(runner._train_loop, BaseLoop) else 0
            runner.visualizer.add_scalars(scalars, step=epoch)
