"""Tests with dynamic inference: computation stops for each sample at the exit that a policy chooses.

Shape suffixes: S samples, K classes; a sample is an image, or all views of a video.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from dynperceiver_runtime import ExitPolicy, PolicyError, RunResult, UserError

from ..analysis import count_exit_costs
from ..checkpoint import CheckpointError
from ..deployment import DynamicRunner
from ..metrics import DynamicAccuracy
from ..models import network_with_exits
from ..registry import HOOKS

__all__ = ['ExitPolicyHook', 'TimedRunner', 'read_exit_policy']


def read_exit_policy(path: str | PathLike[str]) -> ExitPolicy:
    """A policy from its file.

    Raises:
        CheckpointError: If the file is missing or holds no policy.
    """
    try:
        return ExitPolicy.load(path)
    except PolicyError as error:
        raise CheckpointError(str(error)) from error


class TimedRunner(DynamicRunner):
    """A runner that knows how long its newest call took, and what its exits cost.

    The first batch is run through all segments once before it is timed, so that reading, folding and exporting the network, and whatever
    else happens once, does not count. Images on a GPU are waited for first, and taken to the CPU where the backend runs there.

    Args:
        model: A model that holds a :class:`~dynperceiver.models.DynPerceiver` with exits.
        policy: Exit policy.
        backend: ``'torch'`` or ``'onnxruntime'``.
        max_exit: Exit cap; index of an exit, from 0 (exit 1 has index 0). Default: all exits.
        options: See :class:`~dynperceiver.inference.DynamicRunner`.

    Attributes:
        batch_ms: Milliseconds of wall clock that the newest call took.
        cost_gflops: GFLOPs of a sample that leaves at the exit (1 MAC = 1 FLOP), per exit, at the size and views of the first batch.
        backend_name: Where it runs.

    Raises:
        UserError: If the model has no exits, or the policy does not go with it.
    """

    def __init__(
        self, model: nn.Module, policy: ExitPolicy, backend: str = 'torch', *, max_exit: int | None = None, **options: Any
    ) -> None:
        self.network = network_with_exits(model)
        super().__init__(model, policy, backend, max_exit=max_exit, **options)
        self.backend_name = backend
        self.batch_ms = 0.0
        self.cost_gflops: tuple[float, ...] = ()

    @property
    def expected(self) -> Mapping[str, Any]:
        """What the policy's record promises; nothing where the exits are capped, which it knows nothing of."""
        capped = self.max_exit < self.served.num_exits - 1
        return {} if self.policy.record is None or capped else self.policy.record.expected

    def __call__(
        self, images: Any, *, deadline_ms: float | None = None, max_exit: int | None = None, views: int | None = None
    ) -> RunResult:
        """Answer a batch; see :class:`~dynperceiver.inference.DynamicRunner`.

        Raises:
            CheckpointError: If the backend cannot run the network.
            UserError: As there.
        """
        if isinstance(images, Tensor) and images.is_cuda:
            if self.backend_name == 'onnxruntime':
                images = images.cpu()
            else:
                torch.cuda.synchronize(images.device)
        if not self.cost_gflops:
            self._prepare(images, self.views if views is None else views)
        started = self.clock()
        result = super().__call__(images, deadline_ms=deadline_ms, max_exit=max_exit, views=views)
        self.batch_ms = (self.clock() - started) * 1e3
        return result

    def _prepare(self, images: Any, views: int) -> None:
        try:
            self.warm_up(images, rounds=1, views=views)
        except (UserError, ImportError) as error:
            raise CheckpointError(f'the {self.backend_name} backend cannot run the network: {error}') from error
        costs = count_exit_costs(self.network, images.shape[-2], images.shape[-1])
        self.cost_gflops = tuple(views * cost.cost_gmacs for cost in costs)


@HOOKS.register_module()
class ExitPolicyHook(Hook):
    """Test a model with dynamic inference; ``--exit-policy`` of ``tools/test.py`` adds the hook.

    For the time of a test the model has the runner as ``dynamic_runner``, and the metric
    :class:`~dynperceiver.metrics.DynamicAccuracy` reads times and costs from it. The runner is built on the weights that are tested, after
    all other hooks have had their way with them. The first batch is run once before it is timed; see :class:`TimedRunner`.

    Args:
        policy: The policy's JSON file.
        backend: ``'torch'`` or ``'onnxruntime'``.
        max_exit: Exit cap: index of the last exit that a sample may take, from 0 (exit 1 has index 0). Default: all exits.
            ``--max-exit`` of ``tools/test.py`` counts exits from 1.
    """

    priority = 'LOWEST'

    def __init__(self, policy: str, backend: str = 'torch', max_exit: int | None = None) -> None:
        self.policy = policy
        self.backend = backend
        self.max_exit = max_exit

    def before_test_epoch(self, runner: Runner) -> None:
        """Give the model its runner.

        Raises:
            CheckpointError: If the policy cannot be read, or was made for other weights or another number of exits; or the model cannot
                leave early.
        """
        model = _unwrapped(runner)
        policy = read_exit_policy(self.policy)
        if not hasattr(model, 'dynamic_runner'):
            raise CheckpointError(
                f'{type(model).__name__} does not know dynamic inference, so it cannot be tested with the policy {self.policy}; test a '
                'DynPerceiverClassifier or an EarlyExitRecognizer, or leave the policy out'
            )
        try:
            timed = TimedRunner(model, policy, self.backend, max_exit=self.max_exit)
        except UserError as error:
            raise CheckpointError(f'{self.policy}: {error}') from error
        model.dynamic_runner = timed
        _tell_metrics(runner, timed)
        thresholds = ', '.join(map(policy.threshold_in_words, range(policy.num_exits - 1)))
        print_log(f'dynamic inference by {self.policy}: {policy.score} reaches {thresholds} ({self.backend})', logger='current')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Take the runner away."""
        _unwrapped(runner).dynamic_runner = None
        _tell_metrics(runner, None)


def _unwrapped(runner: Runner) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _tell_metrics(runner: Runner, timed: TimedRunner | None) -> None:
    for metric in runner.test_evaluator.metrics:
        if isinstance(metric, DynamicAccuracy):
            metric.run = timed
