"""tools/train.py and tools/test.py on a tiny leaf config, and the same config under the tools that mmaction2 installs."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest
import torch
from tool_runs import event_tags, result_of_test, scalars, training_curve

if TYPE_CHECKING:
    from conftest import TinyRuns

EXITS = (1, 2, 3, 4)
ACCURACIES = {f'acc/exit{i}_{name}' for i in EXITS for name in ('top1', 'top5', 'mean_class')}


def test_training_leaves_checkpoints_and_a_log(tiny_runs: TinyRuns) -> None:
    work_dir = tiny_runs.trained
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'epoch_3.pth')
    assert len(list(work_dir.glob('best_acc_exit4_top1_epoch_*.pth'))) == 1
    state_dict = torch.load(work_dir / 'epoch_3.pth', weights_only=True)['state_dict']
    assert all(key.startswith('backbone.') for key in state_dict)
    (log,) = work_dir.glob('*/*.log')
    text = log.read_text()
    assert 'Epoch(train) [3][4/4]' in text and 'accuracy per exit on 7 samples' in text
    assert all(name in text for name in ACCURACIES)
    assert 'SkippedSampleHook' in text and 'samples were skipped' not in text


def test_training_logs_every_loss_term_and_accuracy_per_iteration(tiny_runs: TinyRuns) -> None:
    curve = training_curve(tiny_runs.trained)
    assert sorted(curve) == list(range(1, 13))
    terms = {'loss_exit1', 'loss_exit2', 'loss_exit3', 'loss_exit4', 'loss_distill'}
    assert all({*terms, 'lr', 'grad_norm', *(f'exit{i}_top{k}' for i in EXITS for k in (1, 5))} <= set(line) for line in curve.values())
    assert all(line['loss'] == pytest.approx(sum(line[term] for term in terms), rel=1e-5) for line in curve.values())
    assert all(0 <= line['loss_exit1'] < 3 for line in curve.values())


def test_tensorboard_has_the_accuracies_of_training_validation_and_test(tiny_runs: TinyRuns) -> None:
    assert ACCURACIES | {'exit1_top1', 'exit4_top5', 'loss_exit3', 'loss_distill', 'lr'} <= event_tags(tiny_runs.trained)
    assert {f'test/{name}' for name in ACCURACIES} <= event_tags(tiny_runs.tested)


def test_testing_repeats_the_validation_of_the_same_weights(tiny_runs: TinyRuns) -> None:
    validated = [line for line in scalars(tiny_runs.trained) if 'acc/exit1_top1' in line][-1]
    assert set(result_of_test(tiny_runs.tested)) == ACCURACIES
    assert result_of_test(tiny_runs.tested) == {name: validated[name] for name in ACCURACIES}


def test_predictions_are_kept_and_give_the_accuracies(tiny_runs: TinyRuns) -> None:
    with open(tiny_runs.tested / 'scores.pkl', 'rb') as file:
        samples = pickle.load(file)
    assert len(samples) == 7 and samples[0]['exit_scores'].shape == (4, 8)
    for number in EXITS:
        hits = [int(sample['exit_scores'][number - 1].argmax()) == int(sample['gt_label']) for sample in samples]
        assert sum(hits) / 7 == pytest.approx(result_of_test(tiny_runs.tested)[f'acc/exit{number}_top1'])


def test_pictures_of_every_third_clip_are_drawn(tiny_runs: TinyRuns) -> None:
    import cv2

    pictures = sorted((tiny_runs.tested / 'pictures').iterdir())
    assert [path.name for path in pictures] == ['000000_00000.png', '000003_00003.png', '000006_00006.png']
    image = cv2.imread(str(pictures[0]))
    assert image.shape[0] > 32 + 4 * 16 and image[:32, :128].std() > 5 and (image[40:] < 128).any()


def test_mmactions_own_training_tool_runs_the_same_training(tiny_runs: TinyRuns) -> None:
    ours, theirs = training_curve(tiny_runs.trained), training_curve(tiny_runs.mmaction_trained)
    assert sorted(theirs) == [1, 2, 3, 4]
    assert theirs == {step: ours[step] for step in theirs}
    assert (tiny_runs.mmaction_trained / 'epoch_1.pth').is_file()
    assert event_tags(tiny_runs.mmaction_trained) >= ACCURACIES


def test_mmactions_own_test_tool_finds_the_same_accuracies(tiny_runs: TinyRuns) -> None:
    assert result_of_test(tiny_runs.mmaction_tested) == result_of_test(tiny_runs.tested)
    assert {f'test/{name}' for name in ACCURACIES} <= event_tags(tiny_runs.mmaction_tested)
    assert len(list((tiny_runs.mmaction_tested / 'pictures').iterdir())) == 3
    with open(tiny_runs.mmaction_tested / 'scores.pkl', 'rb') as file:
        assert len(pickle.load(file)) == 7
