"""Run a test, or single images, and collect what every exit answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner

from dynperceiver_runtime import MissingFileError, UserError

from ..data import diagnose_image
from ..metrics import AnswerCollector, ExitAnswers
from ..models import DynPerceiver, NetworkError, network_with_exits

__all__ = ['answer_samples', 'collect_answers', 'load_sample', 'network_of']


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
        UserError: If the data set is empty or without labels, the model has no exits, or its scores are not finite.
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


def _decode(path: str) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.load()


def load_sample(dataset: Any, path: str | Path) -> dict[str, Any]:
    """An image file after the pipeline of a data set.

    Args:
        dataset: Data set with a ``pipeline`` that loads ``img_path``.
        path: Image file.

    Raises:
        MissingFileError: If the file is missing.
        UserError: If it does not pass through the pipeline.
    """
    if not Path(path).is_file():
        raise MissingFileError(f'image {path} is missing; check the path')
    try:
        sample = dataset.pipeline(dict(img_path=str(path), sample_idx=0))
    except Exception as error:  # decoders raise errors of many types
        if not isinstance(error, UserError) and diagnose_image(str(path), _decode) is None:
            raise  # the file is sound, so the fault is the pipeline's
        reason = f'{type(error).__name__}: {(str(error).strip() or "no reason given").splitlines()[0]}'
        raise UserError(
            f'image {path} cannot be read by the pipeline of the data set ({reason}); save it again as JPEG or PNG, or leave it out'
        ) from error
    if sample is None:
        raise UserError(f'image {path} was sorted out by the pipeline of the data set; save it again as JPEG or PNG, or leave it out')
    return dict(sample)
