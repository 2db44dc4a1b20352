"""tools/*.py on a tiny leaf of action recognition: train, test, resume; and the same config under the tools that mmaction2 installs."""

from __future__ import annotations

import pickle
from functools import cached_property
from pathlib import Path

import pytest
import torch
from tiny_action import make_clips, write_config
from tool_runs import (
    TaskRuns,
    assert_resumed,
    event_tags,
    installed_tool,
    result_of_test,
    scalars,
    text_of_log,
    training_curve,
)

EXITS = (1, 2, 3, 4)
ACCURACIES = {f'acc/exit{i}_{name}' for i in EXITS for name in ('top1', 'top5', 'mean_class')}


class ActionRuns(TaskRuns):
    """The runs; those by the tools that mmaction2 installs have its name.

    Attributes:
        config: Leaf config: two epochs of two iterations; seven clips to test on.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        clips = make_clips(folder / 'data', num_train=8, num_val=7)
        self.config = write_config(folder / 'tiny.py', clips)

    @cached_property
    def mmaction_trained(self) -> Path:
        """The first epoch of the same training by mmaction2's tool."""
        one_epoch = ('--cfg-options', 'train_cfg.max_epochs=1', 'default_hooks.checkpoint.save_best=None')
        return self.run('mmaction_trained', installed_tool('mmaction', 'train'), self.config, *one_epoch)

    @cached_property
    def mmaction_tested(self) -> Path:
        """A test of the checkpoint by mmaction2's tool."""
        kept = ['--dump', 'scores.pkl', *self.kept[2:]]
        return self.run('mmaction_tested', installed_tool('mmaction', 'test'), self.config, self.checkpoint, *kept)


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> ActionRuns:
    """The runs."""
    return ActionRuns(tmp_path_factory.mktemp('action'))


def test_training_leaves_checkpoints_and_a_log(runs: ActionRuns) -> None:
    work_dir = runs.trained
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'epoch_2.pth')
    assert len(list(work_dir.glob('best_acc_exit4_top1_epoch_*.pth'))) == 1
    state_dict = torch.load(work_dir / 'epoch_2.pth', weights_only=True)['state_dict']
    assert all(key.startswith('backbone.') for key in state_dict)
    text = text_of_log(work_dir)
    assert 'Epoch(train) [2][2/2]' in text and 'accuracy per exit on 7 samples' in text
    assert all(name in text for name in ACCURACIES)
    assert 'SkippedSampleHook' in text and 'samples were skipped' not in text


def test_training_logs_every_loss_term_and_accuracy_per_iteration(runs: ActionRuns) -> None:
    curve = training_curve(runs.trained)
    assert sorted(curve) == [1, 2, 3, 4]
    terms = {'loss_exit1', 'loss_exit2', 'loss_exit3', 'loss_exit4', 'loss_distill'}
    assert all({*terms, 'lr', 'grad_norm', *(f'exit{i}_top{k}' for i in EXITS for k in (1, 5))} <= set(line) for line in curve.values())
    assert all(line['loss'] == pytest.approx(sum(line[term] for term in terms), rel=1e-5) for line in curve.values())
    assert all(0 <= line['loss_exit1'] < 3 for line in curve.values())


def test_resumed_training_repeats_the_uninterrupted_one(runs: ActionRuns) -> None:
    assert_resumed(runs.trained, runs.resumed)


def test_tensorboard_has_the_accuracies_of_training_validation_and_test(runs: ActionRuns) -> None:
    assert ACCURACIES | {'exit1_top1', 'exit4_top5', 'loss_exit3', 'loss_distill', 'lr'} <= event_tags(runs.trained)
    assert {f'test/{name}' for name in ACCURACIES} <= event_tags(runs.tested)


def test_testing_repeats_the_validation_of_the_same_weights(runs: ActionRuns) -> None:
    validated = [line for line in scalars(runs.trained) if 'acc/exit1_top1' in line][-1]
    assert set(result_of_test(runs.tested)) == ACCURACIES
    assert result_of_test(runs.tested) == {name: validated[name] for name in ACCURACIES}


def test_predictions_are_kept_and_give_the_accuracies(runs: ActionRuns) -> None:
    with open(runs.tested / 'scores.pkl', 'rb') as file:
        samples = pickle.load(file)
    assert len(samples) == 7 and samples[0]['exit_scores'].shape == (4, 8)
    for number in EXITS:
        hits = [int(sample['exit_scores'][number - 1].argmax()) == int(sample['gt_label']) for sample in samples]
        assert sum(hits) / 7 == pytest.approx(result_of_test(runs.tested)[f'acc/exit{number}_top1'])


def test_pictures_of_every_third_clip_are_drawn(runs: ActionRuns) -> None:
    import cv2

    pictures = sorted((runs.tested / 'pictures').iterdir())
    assert [path.name for path in pictures] == ['000000_00000.png', '000003_00003.png', '000006_00006.png']
    image = cv2.imread(str(pictures[0]))
    assert image.shape[0] > 32 + 4 * 16 and image[:32, :128].std() > 5 and (image[40:] < 128).any()


def test_mmactions_own_training_tool_runs_the_same_training(runs: ActionRuns) -> None:
    ours, theirs = training_curve(runs.trained), training_curve(runs.mmaction_trained)
    assert sorted(theirs) == [1, 2]
    assert theirs == {step: ours[step] for step in theirs}
    assert (runs.mmaction_trained / 'epoch_1.pth').is_file()
    assert event_tags(runs.mmaction_trained) >= ACCURACIES


def test_mmactions_own_test_tool_finds_the_same_accuracies(runs: ActionRuns) -> None:
    assert result_of_test(runs.mmaction_tested) == result_of_test(runs.tested)
    assert {f'test/{name}' for name in ACCURACIES} <= event_tags(runs.mmaction_tested)
    assert len(list((runs.mmaction_tested / 'pictures').iterdir())) == 3
    with open(runs.mmaction_tested / 'scores.pkl', 'rb') as file:
        assert len(pickle.load(file)) == 7
