"""tools/eval_metric.py, and what tools/test.py --out and --tta leave for it: a tiny detector of MMDetection, on two images."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CONFIG = """\
default_scope = 'mmdet'
custom_imports = dict(imports=['dynperceiver_det'])
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32), keep_ratio=True),
                 dict(type='LoadAnnotations', with_bbox=True),
                 dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
test_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
    type='CocoDataset', data_root='{folder}', ann_file='truth.json', data_prefix=dict(img='images/'), test_mode=True,
    metainfo=dict(classes=('ring', 'star')), pipeline=test_pipeline))
test_evaluator = dict(type='{metric}', ann_file='{folder}/truth.json', metric='bbox')
test_cfg = dict(type='TestLoop')
default_hooks = dict(timer=dict(type='IterTimerHook'))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
work_dir = '{folder}/work'
model = dict(
    type='RetinaNet', data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=4, num_stages=2, out_indices=(0, 1), strides=(1, 2), dilations=(1, 1)),
    neck=dict(type='FPN', in_channels=[4, 8], out_channels=8, num_outs=2),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[4, 8]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    test_cfg=dict(nms_pre=1000, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.7), max_per_img=100))
"""


class Detection:
    """Two images with their annotations, configs, and a checkpoint of random weights.

    Attributes:
        config: Scores with our metric.
        plain: Scores with MMDetection's.
        boxes: A result file of perfect boxes in COCO's format.
    """

    def __init__(self, folder: Path) -> None:
        import cv2
        import torch
        from mmengine.config import Config
        from mmengine.registry import MODELS, DefaultScope

        self.folder = folder
        (folder / 'images').mkdir()
        images, annotations = [], []
        for number in (11, 12):
            picture = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / 'images' / f'{number}.png'), picture)
            images.append(dict(id=number, width=64, height=48, file_name=f'{number}.png'))
            square = dict(bbox=[4, 4, 30, 30], area=900, iscrowd=0, segmentation=[[4, 4, 34, 4, 34, 34, 4, 34]])
            annotations.append(dict(square, id=number, image_id=number, category_id=number - 6))
        categories = [dict(id=5, name='ring'), dict(id=6, name='star')]
        (folder / 'truth.json').write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
        self.config, self.plain = folder / 'config.py', folder / 'plain.py'
        self.config.write_text(CONFIG.format(folder=folder, metric='dynperceiver_det.CocoMetric'))
        self.plain.write_text(CONFIG.format(folder=folder, metric='CocoMetric'))
        perfect = [dict(image_id=number, category_id=number - 6, bbox=[4, 4, 30, 30], score=0.5) for number in (11, 12)]
        self.boxes = self.write('made.bbox.json', perfect)
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope('mmdet'):
            state = MODELS.build(Config.fromfile(self.config).model).state_dict()
        state['bbox_head.retina_reg.weight'].zero_()  # anchors as they are, some of which hit
        self.checkpoint = folder / 'random.pth'
        torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=('ring', 'star')))), self.checkpoint)

    def write(self, name: str, content: Any) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(content))
        return path


@pytest.fixture(scope='module')
def detection(tmp_path_factory: pytest.TempPathFactory) -> Detection:
    return Detection(tmp_path_factory.mktemp('detection'))


@pytest.fixture(autouse=True)
def _no_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('LOCAL_RANK', '0')


def figures_of(path: Path) -> dict[str, float]:
    figures: dict[str, float] = json.loads(path.read_text())
    return figures


@pytest.fixture
def kept(detection: Detection, call_tool: Callable[..., None]) -> Path:
    """Predictions of the tiny detector as tools/test.py --out keeps them."""
    path = detection.folder / 'kept.pkl'
    if not path.is_file():
        call_tool('test', detection.config, detection.checkpoint, '--out', path, '--show-dir', 'shown')
    return path


def test_pickle_scores_as_the_test_did(detection: Detection, kept: Path, tmp_path: Path, call_tool: Callable[..., None]) -> None:
    call_tool('eval_metric', detection.config, kept, '--out', tmp_path / 'figures.json')
    [tested] = (detection.folder / 'work').glob('*/*.json')
    reported = {name: value for name, value in figures_of(tested).items() if name.startswith('coco/')}
    assert figures_of(tmp_path / 'figures.json') == reported and len(reported) == 12
    assert max(reported.values()) > 0
    assert len(list((detection.folder / 'work').glob('*/shown/*.png'))) == 2


def test_images_are_not_needed(detection: Detection, kept: Path, tmp_path: Path, call_tool: Callable[..., None]) -> None:
    gone = 'test_dataloader.dataset.data_prefix.img=nowhere/'
    for result in (kept, detection.boxes):
        call_tool('eval_metric', detection.config, result, '--out', tmp_path / 'figures.json', '--cfg-options', gone)
        assert len(figures_of(tmp_path / 'figures.json')) == 12


def test_config_of_mmdet_scores_pickles_by_its_own_metric(
    detection: Detection, kept: Path, tmp_path: Path, call_tool: Callable[..., None]
) -> None:
    call_tool('eval_metric', detection.plain, kept, '--out', tmp_path / 'theirs.json')
    call_tool('eval_metric', detection.config, kept, '--out', tmp_path / 'ours.json')
    theirs, ours = figures_of(tmp_path / 'theirs.json'), figures_of(tmp_path / 'ours.json')
    assert len(theirs) == 6 and theirs == {name: round(ours[name], 3) for name in theirs}
    call_tool('eval_metric', detection.plain, detection.boxes, '--out', tmp_path / 'json.json')
    assert len(figures_of(tmp_path / 'json.json')) == 12


def test_json_tells_what_it_holds(
    detection: Detection, tmp_path: Path, capsys: pytest.CaptureFixture[str], call_tool: Callable[..., None]
) -> None:
    call_tool('eval_metric', detection.plain, detection.boxes)
    printed = capsys.readouterr().out
    assert 'coco/bbox_AR@1: 1.0\n' in printed and 'coco/bbox_mAP_m: -1.0\n' in printed and 'segm' not in printed
    from pycocotools import mask as mask_tools

    code = mask_tools.encode(np.pad(np.ones((30, 30), dtype=np.uint8), ((4, 14), (4, 30))).copy(order='F'))
    segmentation = dict(size=code['size'], counts=code['counts'].decode())
    masks = [dict(entry, segmentation=segmentation) for entry in json.loads(detection.boxes.read_text())]
    result = detection.write('made.segm.json', masks)
    call_tool('eval_metric', detection.plain, result)
    assert 'coco/segm_AR@1: 1.0\n' in capsys.readouterr().out
    call_tool('eval_metric', detection.plain, result, '--iou-type', 'bbox')
    assert 'coco/bbox_AR@1: 1.0\n' in capsys.readouterr().out
    call_tool('eval_metric', detection.config, detection.write('none.bbox.json', []), '--out', tmp_path / 'figures.json')
    figures = figures_of(tmp_path / 'figures.json')
    assert {figures['coco/bbox_mAP'], figures['coco/bbox_AR_s']} == {0.0}


def test_ground_truth_is_the_evaluators_or_the_data_sets(detection: Detection, tmp_path: Path, call_tool: Callable[..., None]) -> None:
    out = tmp_path / 'figures.json'
    call_tool('eval_metric', detection.config, detection.boxes, '--out', out, '--cfg-options', 'test_evaluator.ann_file=None')
    assert figures_of(out)['coco/bbox_AR@1'] == 1
    options = ['test_evaluator.classwise=True', 'test_evaluator.prefix=mine']
    call_tool('eval_metric', detection.config, detection.boxes, '--out', out, '--cfg-options', *options)
    assert figures_of(out)['mine/ring_precision'] == pytest.approx(1)


def test_wrapped_data_set_is_looked_through(detection: Detection, kept: Path, tmp_path: Path, call_tool: Callable[..., None]) -> None:
    (tmp_path / 'wrapped.py').write_text(
        f"_base_ = ['{detection.config}']\n"
        "test_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=1, dataset=_base_.test_dataloader.dataset))\n"
    )
    call_tool('eval_metric', tmp_path / 'wrapped.py', kept, '--out', tmp_path / 'figures.json')
    assert len(figures_of(tmp_path / 'figures.json')) == 12


def test_augmentation_by_mmdets_defaults_runs(
    detection: Detection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_tool: Callable[..., None]
) -> None:
    messages: list[str] = []
    monkeypatch.setattr('dynperceiver.launch.options.print_log', lambda message, logger: messages.append(message))
    call_tool('test', detection.config, detection.checkpoint, '--tta', '--out', tmp_path / 'tta.pkl', '--work-dir', tmp_path)
    assert messages == [
        "--tta: the config lacks tta_model and tta_pipeline, so MMDetection's defaults are used (tta_model: NMS at IoU 0.5, 100 boxes per "
        'image; tta_pipeline: each image as it is and flipped horizontally)'
    ]
    samples = pickle.loads((tmp_path / 'tta.pkl').read_bytes())
    assert [sample['img_id'] for sample in samples] == [11, 12] and all(len(sample['pred_instances']['scores']) for sample in samples)


BOX = dict(image_id=11, category_id=5, bbox=[0, 0, 5, 5], score=0.5)


@pytest.mark.parametrize(
    ('name', 'content', 'options', 'message'),
    [
        ('none.json', None, [], r'result file .*none\.json is missing; tools/test\.py CONFIG CHECKPOINT --out FILE\.pkl makes one'),
        ('none.pkl', None, [], r'result file .*none\.pkl is missing; '),
        ('a.txt', '', [], r'.*a\.txt: a result is a \.pkl of tools/test\.py --out, or a \.json in the format of COCO'),
        ('a.pkl', 'text', [], r'.*a\.pkl cannot be read as a pickle \(.*\); keep the predictions again with tools/test\.py --out'),
        ('a.pkl', pickle.dumps({}), [], r'.*a\.pkl holds a dict, not a list of data samples as tools/test\.py --out keeps them'),
        ('a.pkl', pickle.dumps([dict(img_id=11)]), [], r'.*a\.pkl: entry 0 lacks pred_instances; keep the predictions again'),
        ('a.pkl', pickle.dumps([dict(img_id=9, pred_instances={})]), [], r'.*a\.pkl has image id 9, in all 1 that are not among'),
        ('a.pkl', pickle.dumps([]), ['--iou-type', 'bbox'], r'--iou-type bbox is for \.json results; of .*a\.pkl the test_evaluator'),
        ('a.json', '{}', [], r'.*a\.json holds a dict, not a list; '),
        ('a.json', '[]', [], r'.*a\.json is empty, so that it does not show what it holds; say --iou-type bbox or --iou-type segm'),
        ('a.json', '[{"score": 1}]', [], r'.*a\.json has neither bbox nor segmentation in entry 0, so that '),
        ('a.json', json.dumps([BOX, dict(bbox=[])]), [], r'.*a\.json: entry 1 lacks image_id, category_id, score; bbox results are dicts'),
        ('a.json', json.dumps([dict(BOX, image_id=9)]), [], r'.*a\.json has image id 9, in all 1 that are not among the 2 images'),
        ('a.json', json.dumps([BOX]), ['--cfg-options', 'test_evaluator.ann_file=no.json'], r'ground truth no\.json is missing; '),
        ('a.json', json.dumps([BOX]), ['--cfg-options', 'test_evaluator=None'], r'the config has no test_evaluator, which says how'),
        (
            'a.json',
            json.dumps([BOX]),
            ['--cfg-options', 'test_dataloader.dataset.metainfo.classes=(moon,)'],
            r'.*truth\.json has none of the classes of the data set \(moon, \.\.\.\); set metainfo=dict\(classes=\(\.\.\.\)\) of',
        ),
        (
            'a.json',
            json.dumps([BOX]),
            ['--cfg-options', 'test_evaluator.ann_file=None', 'test_dataloader.dataset.ann_file='],
            r'neither test_evaluator nor the data set of test_dataloader has an ann_file; set one in the config',
        ),
    ],
)
def test_unusable_result_is_one_line(
    detection: Detection, tmp_path: Path, call_tool: Callable[..., None], name: str, content: Any, options: list[str], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit, match=f'^error: {message}') as caught:
        call_tool('eval_metric', detection.config, tmp_path / name, *options)
    assert '\n' not in str(caught.value.code)


def test_missing_config_and_folder_are_named(detection: Detection, call_tool: Callable[..., None]) -> None:
    with pytest.raises(SystemExit, match=r'^error: config none\.py is missing; '):
        call_tool('eval_metric', 'none.py', detection.boxes)
    with pytest.raises(SystemExit, match=r'^error: --out nowhere/figures\.json: its folder is missing; make it first$'):
        call_tool('eval_metric', detection.config, detection.boxes, '--out', 'nowhere/figures.json')
