"""tools/*.py on a tiny leaf of classification: train, test, resume, costs and picture."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from itertools import combinations, permutations
from pathlib import Path

import pytest
import torch
from classification_runs import CLASSES, ClassificationRuns, write_classification_config
from mmengine.config import Config
from mmengine.registry import MODELS
from silent_parameters import silent_parameters
from tool_runs import assert_resumed, event_tags, result_of_test, scalars, text_of_log, training_curve

EXITS = (1, 2, 3, 4)
ACCURACIES = {f'acc/exit{i}_{name}' for i in EXITS for name in ('top1', 'top5', 'mean_class')}
CALIBRATION = {f'calibration/exit{i}_{name}' for i in EXITS for name in ('ece', 'confidence', 'nll', 'brier')}
AGREEMENT = {f'agreement/exit{i}_exit{j}' for i, j in combinations(EXITS, 2)} | {'agreement/oracle'}
AGREEMENT |= {f'agreement/exit{i}_right_exit{j}_wrong' for i, j in permutations(EXITS, 2)}
FIGURES = ACCURACIES | CALIBRATION | AGREEMENT


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> ClassificationRuns:
    """The runs."""
    return ClassificationRuns(tmp_path_factory.mktemp('classification'))


def validations(work_dir: Path) -> list[dict[str, float]]:
    """Figures of every validation of a training."""
    return [{name: line[name] for name in FIGURES} for line in scalars(work_dir) if 'acc/exit1_top1' in line]


def test_training_leaves_checkpoints_a_log_and_figures(runs: ClassificationRuns) -> None:
    work_dir = runs.trained
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'epoch_2.pth')
    assert len(list(work_dir.glob('best_acc_exit4_top1_epoch_*.pth'))) == 1
    checkpoint = torch.load(work_dir / 'epoch_2.pth', weights_only=True)
    assert all(key.startswith('backbone.') for key in checkpoint['state_dict'])
    assert tuple(checkpoint['meta']['dataset_meta']['classes']) == CLASSES
    text = text_of_log(work_dir)
    assert 'Epoch(train) [2][3/3]' in text
    assert all(text.count(f'{what} per exit on 11 samples') == 2 for what in ('accuracy', 'calibration'))
    assert all(f'{name}: ' in text for name in FIGURES)
    assert 'SkippedSampleHook' in text and 'samples were skipped' not in text and not (work_dir / 'skipped_samples.txt').exists()


def test_training_logs_every_loss_term_and_accuracy_per_iteration(runs: ClassificationRuns) -> None:
    curve = training_curve(runs.trained)
    assert sorted(curve) == [1, 2, 3, 4, 5, 6]
    terms = {'loss_exit1', 'loss_exit2', 'loss_exit3', 'loss_exit4', 'loss_distill'}
    assert all({*terms, 'lr', 'grad_norm', *(f'exit{i}_top{k}' for i in EXITS for k in (1, 5))} <= set(line) for line in curve.values())
    assert all(line['loss'] == pytest.approx(sum(line[term] for term in terms), rel=1e-5) for line in curve.values())
    assert FIGURES | {'exit1_top1', 'exit4_top5', *terms, 'lr', 'train/skipped_samples'} <= event_tags(runs.trained)


def test_testing_repeats_the_validation_of_the_same_weights(runs: ClassificationRuns) -> None:
    assert result_of_test(runs.tested) == validations(runs.trained)[-1]
    assert len({json.dumps(figures, sort_keys=True) for figures in validations(runs.trained)}) == 2
    assert {f'test/{name}' for name in FIGURES} <= event_tags(runs.tested)


def test_predictions_are_kept_and_give_the_accuracies(runs: ClassificationRuns) -> None:
    samples = pickle.loads((runs.tested / 'scores.pkl').read_bytes())
    assert len(samples) == 11 and all(sample['exit_scores'].shape == (4, 10) for sample in samples)
    assert [CLASSES[sample['gt_label']] for sample in samples] == [Path(sample['img_path']).parent.name for sample in samples]
    for number in EXITS:
        hits = [int(sample['exit_scores'][number - 1].argmax()) == int(sample['gt_label']) for sample in samples]
        assert sum(hits) / 11 == pytest.approx(result_of_test(runs.tested)[f'acc/exit{number}_top1'])
    assert all(int(sample['pred_label']) == int(sample['exit_scores'][-1].argmax()) for sample in samples)


def test_pictures_of_every_third_image_are_drawn(runs: ClassificationRuns) -> None:
    import cv2

    pictures = sorted((runs.tested / 'pictures').iterdir())
    samples = pickle.loads((runs.tested / 'scores.pkl').read_bytes())
    expected = [f'{number:06d}_{Path(samples[number]["img_path"]).stem}.png' for number in (0, 3, 6, 9)]
    assert [path.name for path in pictures] == expected
    image = cv2.imread(str(pictures[0]))
    assert image.shape[0] > 32 + 5 * 16 and image[:32, :32].std() > 5 and (image[-40:] < 128).any()


def test_resumed_training_repeats_the_uninterrupted_one(runs: ClassificationRuns) -> None:
    """With mixed batches and averaged weights, and what is validated of these."""
    assert_resumed(runs.trained, runs.resumed)
    assert validations(runs.resumed) == validations(runs.trained)[1:]


def test_what_is_saved_and_tested_is_the_average(runs: ClassificationRuns) -> None:
    content = torch.load(runs.checkpoint, weights_only=True)
    averaged, own = content['state_dict'], content['ema_state_dict']
    assert int(own['steps']) == 6
    assert {f'module.{key}' for key in averaged} == set(own) - {'steps'}
    floats = {key for key, value in averaged.items() if value.is_floating_point()}
    moved = {key for key in floats if not torch.equal(averaged[key], own[f'module.{key}'])}
    with torch.device('meta'):
        silent = silent_parameters(MODELS.build(Config.fromfile(runs.config).model))
    assert moved | silent == floats  # the average of weights that nothing teaches is these weights


STATIC = """\
_base_ = ['{base}']
model = dict(
    backbone=dict(_delete_=True, type='dynperceiver.StaticTrunk', feature_branch='resnet18', width=0.125, num_classes=10),
    loss=dict(exit_weights=(1, )))
default_hooks = dict(checkpoint=dict(save_best='acc/exit1_top1'))
train_cfg = dict(max_epochs=1)
work_dir = '{work_dir}'
"""


def test_costs_and_picture_of_early_exits_and_a_static_trunk(
    runs: ClassificationRuns,
    call_tool: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """The trunk is trained and tested here, too, and its only exit is drawn among the others."""
    early = write_classification_config(tmp_path / 'early.py', runs.data)
    static, work_dir = tmp_path / 'static.py', tmp_path / 'static'
    static.write_text(STATIC.format(base=early, work_dir=work_dir))
    call_tool('train', static)
    call_tool('test', static, work_dir / 'epoch_1.pth', '--work-dir', work_dir / 'tested')
    results = [next(folder.glob('*/*.json')) for folder in (runs.tested, work_dir / 'tested')]
    accuracies = json.loads(results[1].read_text())
    assert {name for name in accuracies if name.startswith('acc/')} == {f'acc/exit1_{name}' for name in ('top1', 'top5', 'mean_class')}
    capsys.readouterr()

    reports = []
    for config in (early, static):
        call_tool('get_flops', config, '--json')
        reports.append(json.loads(capsys.readouterr().out))
    assert [len(report['exits']) for report in reports] == [4, 1]
    assert all((report['height'], report['frames_per_sample'], report['has_exits']) == (32, 1, True) for report in reports)
    costs = [[row['cost_gmacs'] for row in report['exits']] for report in reports]
    assert 0 < costs[1][0] < costs[0][-1] and costs[0] == sorted(costs[0])

    pairs = [f'{config}={result}' for config, result in zip((early, static), results, strict=True)]
    call_tool('plot', tmp_path / 'exits.png', *pairs, '--labels', 'early', 'static')
    tested = result_of_test(runs.tested)
    points = [f'{tested[f"acc/exit{i}_top1"]:.1%} at {cost:.3g} GMACs' for i, cost in zip(EXITS, costs[0], strict=True)]
    point = f'{accuracies["acc/exit1_top1"]:.1%} at {costs[1][0]:.3g} GMACs'
    assert capsys.readouterr().out == f'{tmp_path / "exits.png"}: early {", ".join(points)}; static {point}\n'
    assert (tmp_path / 'exits.png').stat().st_size > 5000
    with pytest.raises(SystemExit, match=r'^error: .* has 4 exits, the model of .*static\.py has 1'):
        call_tool('plot', tmp_path / 'wrong.png', f'{static}={results[0]}')
