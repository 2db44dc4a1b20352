"""What the exits answered: collected from samples, sorted into easy and hard."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from core_models import narrow_model
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement
from torch import nn

from dynperceiver.launch import answer_samples, load_sample, network_of
from dynperceiver.metrics import AnswerCollector, ExitAnswers
from dynperceiver.viz import sample_image

# rows: easy, easier, hard, surer at last, wrong, gains most (all but exit 2 right), only exit 1 wrong; label 0
RIGHT = [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 1, 0], [1, 0, 1, 1], [0, 1, 1, 1]]
SURE = [[0.7, 0.5, 0.6, 0.9], [0.8, 0.7, 0.4, 0.3], [0.6, 0.5, 0.5, 0.5], [0.6, 0.9, 0.5, 0.7], [0.9] * 4, [0.3, 0.3, 0.7, 0.99], [0.5] * 4]


@pytest.fixture
def answers() -> ExitAnswers:
    return ExitAnswers(np.arange(10, 17), np.zeros(7, dtype=int), 1 - np.array(RIGHT), np.array(SURE))


def test_easy_and_hard_by_hand(answers: ExitAnswers) -> None:
    assert answers.easy().tolist() == [1, 0, 5]
    assert answers.hard().tolist() == [3, 2]
    assert answers.gaining().tolist() == [5, 0, 3, 6, 2]
    assert answers.right_SE.astype(int).tolist() == RIGHT


@pytest.mark.parametrize(
    ('threshold', 'exits'), [(0.7, [1, 1, 4, 2, 1, 3, 4]), (0.5, [1, 1, 1, 1, 1, 3, 1]), (0.1, [1] * 7), (1.0, [4] * 7)]
)
def test_where_samples_leave(answers: ExitAnswers, threshold: float, exits: list[int]) -> None:
    assert answers.leaving_S(threshold).tolist() == exits
    assert answers.confidence_SE.tolist() == SURE, 'asking changes nothing'


def test_collecting_keeps_answers_and_numbers() -> None:
    collector = AnswerCollector()
    evaluator = Evaluator([collector])
    scores = torch.tensor([[[0.1, 0.9], [0.6, 0.4]], [[0.2, 0.8], [0.5, 0.5]]])
    for number, label, scores_EK in zip((7, 3), (1, torch.tensor([0])), scores, strict=True):
        evaluator.process([BaseDataElement(metainfo=dict(sample_idx=number), exit_scores=scores_EK, gt_label=label)])
    assert evaluator.evaluate(2) == {}
    found = collector.answers
    assert found is not None
    assert found.index_S.tolist() == [7, 3] and found.label_S.tolist() == [1, 0]
    assert found.answer_SE.tolist() == [[1, 0], [1, 0]]
    assert found.confidence_SE == pytest.approx(np.array([[0.9, 0.6], [0.8, 0.5]]))


def test_samples_without_numbers_are_counted() -> None:
    collector = AnswerCollector()
    collector.process(None, [{'exit_scores': torch.tensor([[0.0, 1]]), 'gt_label': 1}] * 3)
    collector.compute_metrics(collector.results)
    assert collector.answers is not None and collector.answers.index_S.tolist() == [0, 1, 2]


def test_nothing_to_collect_or_nothing_finite() -> None:
    with pytest.raises(ValueError, match=r'there are no samples to show; the data set is empty'):
        AnswerCollector().compute_metrics([])
    with pytest.raises(ValueError, match='scores that are not finite; the weights have diverged'):
        AnswerCollector().process(None, [{'exit_scores': torch.tensor([[np.nan, 1]]), 'gt_label': 1}])
    with pytest.raises(ValueError, match='labels run from 2 to 2, but the model has 2 classes'):
        AnswerCollector().process(None, [{'exit_scores': torch.tensor([[0.0, 1]]), 'gt_label': 2}])
    with pytest.raises(ValueError, match=r'a data sample has no gt_label, .*AnswerCollector needs a labelled data set'):
        AnswerCollector().process(None, [{'exit_scores': torch.tensor([[0.0, 1]])}])


class Classifier(nn.Module):
    """A model whose scores depend on the mean of the image."""

    def test_step(self, batch: dict[str, Any]) -> list[BaseDataElement]:
        assert not self.training and not torch.is_grad_enabled()
        mean = batch['inputs'].float().mean() / 255
        scores_EK = torch.stack([torch.stack([mean, 1 - mean]), torch.stack([1 - mean, mean])])
        return [BaseDataElement(exit_scores=scores_EK)]


def test_answers_to_samples_of_several_sizes() -> None:
    loader = SimpleNamespace(collate_fn=lambda samples: {'inputs': torch.stack([sample['inputs'] for sample in samples])})
    runner: Any = SimpleNamespace(model=Classifier().train(), test_dataloader=loader)
    samples = [{'inputs': torch.full((3, 4, 4), 255)}, {'inputs': torch.full((3, 2, 8), 51)}]
    answers = answer_samples(runner, samples)
    assert answers.answer_SE.tolist() == [[0, 1], [1, 0]]
    assert answers.confidence_SE == pytest.approx(np.array([[1, 1], [0.8, 0.8]]))
    assert not answers.right_SE.any(), 'their labels are unknown'
    with pytest.raises(ValueError, match='there are no samples to answer'):
        answer_samples(runner, [])


def test_models_without_exits_or_for_clips() -> None:
    def runner(model: nn.Module) -> Any:
        return SimpleNamespace(model=nn.Sequential(model))

    network = narrow_model()
    assert network_of(runner(network)) is network
    with pytest.raises(ValueError, match=r'Sequential holds no DynPerceiver; .* whose backbone is of type dynperceiver\.DynPerceiver'):
        network_of(runner(nn.Identity()))
    with pytest.raises(ValueError, match=r'the network was built without exits \(num_classes=None\), .* build it with num_classes'):
        network_of(runner(narrow_model(num_classes=None)))
    with pytest.raises(ValueError, match=r'the model takes clips of 4 frames, not images; tools/test\.py --show-dir draws clips'):
        network_of(runner(narrow_model(num_frames=4)))


def test_images_of_ones_own(tmp_path: Path) -> None:
    def pipeline(results: dict[str, Any]) -> Any:
        if Path(results['img_path']).read_text() == 'broken':
            raise OSError('no decoder\nmore text')
        return None if 'unwanted' in results['img_path'] else {'inputs': results['img_path']}

    dataset = SimpleNamespace(pipeline=pipeline)
    for name, text in (('fine', 'x'), ('unwanted', 'x'), ('bad', 'broken')):
        (tmp_path / name).write_text(text)
    assert load_sample(dataset, tmp_path / 'fine') == {'inputs': str(tmp_path / 'fine')}
    with pytest.raises(FileNotFoundError, match=r'image .*none is missing; check the path'):
        load_sample(dataset, tmp_path / 'none')
    with pytest.raises(ValueError, match=r'bad cannot be read by the pipeline of the data set \(OSError: no decoder\); save it again'):
        load_sample(dataset, tmp_path / 'bad')
    with pytest.raises(ValueError, match='unwanted was sorted out by the pipeline'):
        load_sample(dataset, tmp_path / 'unwanted')


def test_picture_of_a_sample() -> None:
    image_CHW = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    picture = sample_image({'inputs': image_CHW})
    assert picture.shape == (2, 4, 3) and picture[1, 2].tolist() == image_CHW[:, 1, 2].tolist()
    for inputs, told in ((image_CHW.float(), r'torch\.float32 of shape \(3, 2, 4\)'), (image_CHW[None], r'\(1, 3, 2, 4\)'), ([1], 'list')):
        with pytest.raises(ValueError, match=rf'the pipeline gives .*{told} as inputs, but a picture is drawn from an uint8 image'):
            sample_image({'inputs': inputs})
