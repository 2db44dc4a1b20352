"""What a sample costs in milliseconds that leaves at an exit, measured on this machine."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from dynperceiver_runtime import DynamicRunner as EngineRunner
from dynperceiver_runtime import UserError

from ..calibration.held_out_logits import batch_images
from ..deployment.runner import DynamicRunner
from ..models import network_with_exits
from .timing import machine_description, time_calls

__all__ = ['measure_exit_ms', 'time_exits']


def measure_exit_ms(runner: EngineRunner, images: Any, num_samples: int, rounds: int = 25, max_seconds: float = 20.0) -> tuple[float, ...]:
    """Milliseconds per sample that leaves at each exit, decision included.

    Exits take turns, so that whatever else the machine does hits all alike; the median counts.

    Args:
        runner: A runner under whose policy nobody leaves early, as without any.
        images: A batch as the runner takes it; the times hold for its size.
        num_samples: Samples in it.
        rounds: Turns of each exit.
        max_seconds: Stop after so many seconds, but not before three rounds.

    Raises:
        UserError: If there are no samples.
    """
    if num_samples < 1:
        raise UserError(f'num_samples={num_samples}: time a batch of 1 or more samples')
    calls = {str(exit_index): partial(runner, images, max_exit=exit_index) for exit_index in range(runner.served.num_exits)}
    table = time_calls(calls, rounds, max_seconds=max_seconds)
    median_E = np.array([row.median_ms for row in table.rows()]) / num_samples
    return tuple(np.maximum.accumulate(median_E).tolist())  # a last segment may cost less than the times wander


def time_exits(model: nn.Module, loader: Any, backend: str = 'torch', batch_size: int = 1) -> tuple[tuple[float, ...], str]:
    """Milliseconds per exit for samples of a loader.

    Args:
        model: Classifier or recognizer with the network and a data preprocessor.
        loader: Loader of samples; its first batch is taken, and repeated to fill ``batch_size``.
        backend: ``'torch'`` or ``'onnxruntime'``.
        batch_size: Samples per batch.

    Returns:
        Milliseconds per sample that leaves at each exit; and what they depend on: machine, backend, batch size.
    """
    network = network_with_exits(model)
    images_BCHW, label_S = batch_images(model, next(iter(loader)))
    rows = len(images_BCHW) // len(label_S)
    images_BCHW = images_BCHW[torch.arange(batch_size * rows, device=images_BCHW.device) % len(images_BCHW)]
    runner = DynamicRunner(model, backend=backend, views=rows // network.num_frames)
    times_ms = measure_exit_ms(runner, images_BCHW if backend == 'torch' else images_BCHW.cpu().numpy(), batch_size)
    num_threads = getattr(runner.engine, 'num_threads', None)
    accelerator = torch.cuda.get_device_name(images_BCHW.device) if images_BCHW.is_cuda and backend == 'torch' else None
    return times_ms, f'{machine_description(num_threads, accelerator)}, backend {backend}, batch size {batch_size}'
