"""tools/*.py on a tiny leaf of detection, and the same config under the tools that mmdet installs."""

from __future__ import annotations

import json
import pickle
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detection_runs import DetectionRuns
from mmengine.config import Config
from mmengine.runner import Runner
from silent_parameters import silent_parameters
from tiny_detection import CLASSES, FIGURES, LEAVES, make_photos, write_detection_config
from tool_runs import assert_resumed, event_tags, installed_tool, keep_layout, result_of_test, scalars, text_of_log, training_curve

NAMES = {f'coco/bbox_{name}' for name in FIGURES}


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> DetectionRuns:
    """The runs."""
    return DetectionRuns(tmp_path_factory.mktemp('detection'))


def validations(work_dir: Path) -> list[dict[str, float]]:
    """Figures of every validation of a training."""
    lines = [line for line in scalars(work_dir) if 'coco/bbox_mAP' in line]
    return [{name: line[name] for name in NAMES} for line in lines]


def test_training_leaves_checkpoints_a_log_and_figures(runs: DetectionRuns) -> None:
    work_dir = runs.trained
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'epoch_2.pth')
    assert len(list(work_dir.glob('best_coco_bbox_mAP_epoch_*.pth'))) == 1
    state_dict = torch.load(work_dir / 'epoch_2.pth', weights_only=True)['state_dict']
    assert {key.partition('.')[0] for key in state_dict} == {'backbone', 'neck', 'bbox_head'}
    assert not [key for key in state_dict if 'exit' in key or 'classifier' in key]
    text = text_of_log(work_dir)
    assert 'Epoch(train) [2][2/2]' in text and all(name in text for name in NAMES)
    assert 'samples were skipped' not in text
    assert NAMES | {'loss', 'loss_cls', 'loss_bbox', 'lr'} <= event_tags(work_dir)
    curve = training_curve(work_dir)
    assert sorted(curve) == [1, 2, 3, 4]
    assert all(line['loss'] == pytest.approx(line['loss_cls'] + line['loss_bbox'], rel=1e-5) for line in curve.values())
    assert len({line['loss'] for line in curve.values()}) == 4


def test_testing_repeats_the_validation_of_the_same_weights(runs: DetectionRuns) -> None:
    figures = result_of_test(runs.tested)
    assert set(figures) == NAMES and all(name in text_of_log(runs.tested) for name in NAMES)
    assert figures == validations(runs.trained)[-1]
    assert figures['coco/bbox_AR@100'] > 0.02 and figures['coco/bbox_AR_s'] != figures['coco/bbox_AR_m']
    assert figures['coco/bbox_mAP_l'] == -1  # no photo has an object of 96x96 pixels or more
    assert {f'test/{name}' for name in NAMES} <= event_tags(runs.tested)


def test_predictions_and_pictures_are_kept(runs: DetectionRuns) -> None:
    samples = pickle.loads((runs.tested / 'result.pkl').read_bytes())
    assert [sample['img_id'] for sample in samples] == [1, 2, 3, 4, 5]
    boxes = json.loads((runs.tested / 'result.bbox.json').read_text())
    assert len(boxes) == sum(len(sample['pred_instances']['scores']) for sample in samples) > 0
    assert sorted(path.name for path in (runs.tested / 'pictures').rglob('*.jpg')) == [f'val_{number}.jpg' for number in range(1, 6)]


@pytest.mark.parametrize('result', ['result.pkl', 'result.bbox.json'])
def test_kept_predictions_give_the_figures_again(
    result: str, runs: DetectionRuns, call_tool: Callable[..., None], tmp_path: Path
) -> None:
    call_tool('eval_metric', runs.config, runs.tested / result, '--out', tmp_path / 'figures.json')
    assert json.loads((tmp_path / 'figures.json').read_text()) == pytest.approx(result_of_test(runs.tested), abs=1e-6)


def test_augmented_test_differs(runs: DetectionRuns, capfd: pytest.CaptureFixture[str]) -> None:
    figures = result_of_test(runs.augmented)
    assert set(figures) == NAMES
    assert figures != result_of_test(runs.tested)
    assert 'flipped horizontally' in ''.join(capfd.readouterr())


def test_resumed_training_repeats_the_uninterrupted_one(runs: DetectionRuns) -> None:
    assert_resumed(runs.trained, runs.resumed)
    assert validations(runs.resumed) == validations(runs.trained)[1:]


def test_mmdets_own_training_tool_runs_the_same_training(runs: DetectionRuns) -> None:
    assert training_curve(runs.mmdet_trained) == training_curve(runs.trained)
    assert validations(runs.mmdet_trained) == validations(runs.trained)


def test_mmdets_own_test_tool_finds_the_same_figures(runs: DetectionRuns) -> None:
    assert result_of_test(runs.mmdet_tested) == result_of_test(runs.tested)
    assert len(pickle.loads((runs.mmdet_tested / 'result.pkl').read_bytes())) == 5
    assert len(list((runs.mmdet_tested / 'pictures').rglob('*.jpg'))) == 5


def test_mmdets_own_tool_counts_operations(
    runs: DetectionRuns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = str(installed_tool('mmdet', 'analysis_tools/get_flops'))
    monkeypatch.setattr('sys.argv', [script, str(runs.config), '--num-images', '1'])
    runpy.run_path(script, run_name='__main__')
    printed = capsys.readouterr().out
    assert 'Input shape: (96, 128)' in printed
    assert 'Flops: ' in printed and 'Params: ' in printed


def test_mmdets_inferencer_gives_boxes(runs: DetectionRuns) -> None:
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(str(runs.config), str(runs.checkpoint), device='cpu', show_progress=False)
    assert inferencer.model.dataset_meta['classes'] == CLASSES
    photo = runs.data / 'images' / 'val_1.jpg'
    (found,) = inferencer(str(photo), no_save_vis=True)['predictions']
    samples = pickle.loads((runs.tested / 'result.pkl').read_bytes())
    expected = samples[0]['pred_instances']
    assert len(found['bboxes']) == len(expected['bboxes']) > 0
    torch.testing.assert_close(torch.tensor(found['bboxes']), expected['bboxes'], rtol=1e-4, atol=1e-3)
    assert found['labels'] == expected['labels'].tolist()


FOREIGN = """\
_base_ = ['tiny.py']
default_scope = 'mmaction'
train_cfg = dict(max_epochs=1)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(indices=2))
work_dir = '{work_dir}'
visualizer = dict(name='{work_dir}')  # MMDetection's is called 'visualizer', and there is one of a name per process
"""


@pytest.mark.parametrize('leaf', ['retinanet_dynperceiver-regnety-1.6gf_fpn_1x_coco', 'faster-rcnn_dynperceiver-r18x0.5_fpn_bccd'])
def test_another_projects_default_scope(leaf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model, data sets, pipelines, sampler, hooks, visualizer and evaluator are found, and one step is trained and validated."""
    keep_layout(monkeypatch)
    write_detection_config(tmp_path / 'tiny.py', LEAVES / f'{leaf}.py', make_photos(tmp_path / 'data'))
    (tmp_path / 'foreign.py').write_text(FOREIGN.format(work_dir=tmp_path / 'work'))
    runner = Runner.from_cfg(Config.fromfile(tmp_path / 'foreign.py'))
    assert runner.default_scope.scope_name == 'mmaction'
    before = {name: parameter.detach().clone() for name, parameter in runner.model.named_parameters()}
    runner.train()
    assert runner.iter == 1
    moved = {name for name, parameter in runner.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved | silent_parameters(runner.model) >= {name for name in before if 'backbone' in name}
    assert {type(hook).__name__ for hook in runner.hooks} >= {'DetVisualizationHook', 'NonFiniteLossHook', 'SkippedSampleHook'}
    assert set(validations(tmp_path / 'work')[0]) == NAMES
