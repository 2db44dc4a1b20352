"""What every exit answered to the samples of a data set, and which of them show best what early exits do.

Shape suffixes: S samples, E exits, C/H/W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner

from ..metrics import ExitScoresMetric
from ..metrics.collection import check_scores
from ..models import DynPerceiver, NetworkError, network_with_exits

__all__ = ['AnswerCollector', 'ExitAnswers', 'answer_samples', 'collect_answers', 'load_sample', 'network_of', 'sample_image']


@dataclass(frozen=True)
class ExitAnswers:
    """Answers to a data set.

    Attributes:
        index_S: Numbers of the samples in the data set.
        label_S: Their labels.
        answer_SE: Class that each exit answers.
        confidence_SE: Its score, in [0, 1].
    """

    index_S: np.ndarray
    label_S: np.ndarray
    answer_SE: np.ndarray
    confidence_SE: np.ndarray

    @property
    def right_SE(self) -> np.ndarray:
        """Whether each exit is right."""
        return np.asarray(self.answer_SE == self.label_S[:, None])

    def easy(self) -> np.ndarray:
        """Rows of the samples that exit 1 gets right, the most confident first."""
        rows = np.flatnonzero(self.right_SE[:, 0])
        return rows[np.argsort(-self.confidence_SE[rows, 0], kind='stable')]

    def hard(self) -> np.ndarray:
        """Rows of the samples that the last exit alone gets right, the most confident first."""
        rows = np.flatnonzero(self.right_SE[:, -1] & ~self.right_SE[:, :-1].any(1))
        return rows[np.argsort(-self.confidence_SE[rows, -1], kind='stable')]

    def gaining(self) -> np.ndarray:
        """Rows of the samples that the last exit gets right, by what its confidence gains on that of exit 1, the largest gain first."""
        rows = np.flatnonzero(self.right_SE[:, -1])
        return rows[np.argsort(self.confidence_SE[rows, 0] - self.confidence_SE[rows, -1], kind='stable')]

    def leaving_S(self, threshold: float) -> np.ndarray:
        """Number (1..E) of the first exit whose confidence reaches the threshold; of the last where none does."""
        reached_SE = self.confidence_SE >= threshold
        reached_SE[:, -1] = True
        return np.asarray(reached_SE.argmax(1) + 1)


class AnswerCollector(ExitScoresMetric):
    """Keeps what the exits answer, and nothing else of their scores; a data set may be large."""

    default_prefix = 'answers'
    answers: ExitAnswers | None = None

    def keep(self, sample: Mapping[str, Any], scores_EK: np.ndarray, label: int) -> None:
        """Add a sample to ``results``."""
        check_scores(scores_EK[None], np.array([label]), 'an answer')
        index = int(sample.get('sample_idx', len(self.results)))
        self.results.append((index, label, scores_EK.argmax(1), scores_EK.max(1)))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Join the samples to ``answers``; there are no metrics."""
        if not results:
            raise ValueError('there are no samples to show; the data set is empty, check its annotation file')
        self.answers = ExitAnswers(*(np.stack(column) for column in zip(*results, strict=True)))
        return {}


def network_of(runner: Runner) -> DynPerceiver:
    """The Dyn-Perceiver with exits, for images, in a runner's model.

    Raises:
        NetworkError: If there is none.
    """
    network = network_with_exits(runner.model)
    if network.num_frames > 1:
        raise NetworkError(
            f'the model takes clips of {network.num_frames} frames, not images; tools/test.py --show-dir draws clips with the answers of '
            'their exits'
        )
    return network


def collect_answers(runner: Runner) -> ExitAnswers:
    """Run a runner's test, with the collector in place of its metrics.

    Raises:
        ValueError: If the data set is empty or without labels, the model has no exits, or its scores are not finite.
    """
    network_of(runner)
    collector = AnswerCollector()
    evaluator = Evaluator([collector])
    evaluator.dataset_meta = getattr(runner.test_dataloader.dataset, 'metainfo', None)
    runner.test_loop.evaluator = evaluator
    runner.test()
    assert collector.answers is not None
    return collector.answers


def answer_samples(runner: Runner, samples: Sequence[Mapping[str, Any]]) -> ExitAnswers:
    """Answers to some samples after the test pipeline, one by one, since they may differ in size; ``label_S`` is -1 throughout.

    Args:
        runner: A runner whose weights are loaded.
        samples: What the data set or :func:`load_sample` gives.

    Raises:
        ValueError: If there is no sample.
    """
    if not samples:
        raise ValueError('there are no samples to answer; pass one or more')
    runner.model.eval()
    scores = []
    with torch.no_grad():
        for sample in samples:
            (output,) = runner.model.test_step(runner.test_dataloader.collate_fn([sample]))
            scores.append(output.exit_scores.float().cpu().numpy())
    scores_SEK = np.stack(scores)
    return ExitAnswers(np.arange(len(scores)), np.full(len(scores), -1), scores_SEK.argmax(2), scores_SEK.max(2))


def load_sample(dataset: Any, path: str | Path) -> dict[str, Any]:
    """An image file after the pipeline of a data set.

    Args:
        dataset: Data set with a ``pipeline`` that loads ``img_path``.
        path: Image file.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it does not pass through the pipeline.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'image {path} is missing; check the path')
    try:
        sample = dataset.pipeline(dict(img_path=str(path), sample_idx=0))
    except Exception as error:  # decoders raise errors of many types
        reason = f'{type(error).__name__}: {(str(error).strip() or "no reason given").splitlines()[0]}'
        raise ValueError(
            f'image {path} cannot be read by the pipeline of the data set ({reason}); save it again as JPEG or PNG, or leave it out'
        ) from error
    if sample is None:
        raise ValueError(f'image {path} was sorted out by the pipeline of the data set; save it again as JPEG or PNG, or leave it out')
    return dict(sample)


def sample_image(sample: Mapping[str, Any]) -> np.ndarray:
    """The image of a sample as the model sees it, RGB of shape (H, W, 3), uint8.

    Raises:
        ValueError: If the sample's ``inputs`` are no such image.
    """
    inputs = sample['inputs']
    if not isinstance(inputs, torch.Tensor) or inputs.dtype != torch.uint8 or inputs.dim() != 3 or inputs.shape[0] != 3:
        found = f'{inputs.dtype} of shape {tuple(inputs.shape)}' if isinstance(inputs, torch.Tensor) else type(inputs).__name__
        raise ValueError(f'the pipeline gives {found} as inputs, but a picture is drawn from an uint8 image of shape (3, H, W)')
    return np.asarray(inputs.permute(1, 2, 0).cpu().numpy())
