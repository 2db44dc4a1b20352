"""What a runner answers.

Shape suffixes: S samples, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import UserError

__all__ = ['RunResult', 'StreamResult', 'gather']


@dataclass(frozen=True)
class RunResult:
    """Answers to a batch, in its order. Arrays are of the engine's kind: tensors from PyTorch, NumPy arrays from ONNX Runtime.

    Attributes:
        logits: Logits of the exit where each sample left, shape (S, K).
        exit_index: Index of that exit, from 0 (exit 1 has index 0), shape (S,).
        confidence: The policy's score there (for ``score='confidence'`` the largest softmax probability), shape (S,).
    """

    logits: Any
    exit_index: Any
    confidence: Any


@dataclass(frozen=True)
class StreamResult(RunResult):
    """Answers to samples of a stream, in the order in which they left.

    Attributes:
        sample_index: Numbers of the samples in the stream, shape (S,).
    """

    sample_index: Any


def gather(results: Iterable[StreamResult]) -> RunResult:
    """Answers of a whole stream in the order of its samples.

    Args:
        results: What :meth:`~dynperceiver_runtime.DynamicRunner.stream` yields.

    Returns:
        NumPy arrays, whatever the engine.

    Raises:
        UserError: If there are none.
    """
    parts = [tuple(map(np.asarray, (part.sample_index, part.logits, part.exit_index, part.confidence))) for part in results]
    if not parts:
        raise UserError('the stream had no samples; check the data set')
    index_S, *arrays = (np.concatenate(column) for column in zip(*parts, strict=True))
    order_S = np.argsort(index_S)
    return RunResult(*(array[order_S] for array in arrays))
