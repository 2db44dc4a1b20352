"""CocoMetric and its scoring function against pycocotools called directly, on made annotations and on COCO's own example."""

from __future__ import annotations

import json
import logging
import os
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import METRICS, DefaultScope
from mmengine.structures import InstanceData
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynperceiver_det.evaluation import FIGURES, CocoMetric, score_detections, score_result

ROOT = Path(__file__).resolve().parents[3]
HEIGHT, WIDTH = 240, 320
CATEGORIES = {3: 'ring', 7: 'star', 9: 'disc'}
CLASSES = tuple(CATEGORIES.values())
NUM_IMAGES = 20
CROWDED = 4  # image with more detections than count


class Made:
    """Seeded annotations and detections, as files in COCO's format: all in quarters of a pixel, so that no sum of them is rounded."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(3)
        self.folder, self.annotations, self.boxes, self.masks = folder, [], [], []
        for image_id in range(1, NUM_IMAGES + 1):
            for size in (20, 60, 110, 60)[: 3 + image_id % 2]:
                x, y = rng.integers(0, 4 * (WIDTH - size - 8)) / 4, rng.integers(0, 4 * (HEIGHT - size - 8)) / 4
                box = [float(x), float(y), size + rng.integers(0, 24) / 4, size + rng.integers(0, 24) / 4]
                self._annotate(image_id, int(rng.choice([*CATEGORIES])), box, crowd=bool(rng.random() < 0.15))
                for _ in range(40 if image_id == CROWDED else 2):
                    shift = rng.integers(-size // 2, size // 2 + 1, 4) / 4 * (rng.random() < 0.8)
                    self._detect(image_id, self.annotations[-1]['category_id'], np.maximum(np.add(box, shift), 0.25), rng.random())
            self._detect(image_id, int(rng.choice([*CATEGORIES])), np.array([8, 8, 40, 40.5]), rng.random())
        images = [dict(id=number, width=WIDTH, height=HEIGHT, file_name=f'{number}.jpg') for number in range(1, NUM_IMAGES + 1)]
        categories = [dict(id=number, name=name) for number, name in CATEGORIES.items()]
        self.truth = self.write('truth', dict(images=images, annotations=self.annotations, categories=categories))
        self.bbox, self.segm = self.write('made.bbox', self.boxes), self.write('made.segm', self.masks)

    def _annotate(self, image_id: int, category_id: int, box: list[float], crowd: bool) -> None:
        x, y, width, height = box
        outline: Any = [[x, y, x + width, y, x + width, y + height, x + width / 4, y + height]]
        if crowd:
            outline = self._rle(np.array(box), as_list=True)
        number = len(self.annotations) + 1
        common = dict(id=number, image_id=image_id, category_id=category_id, bbox=box, area=width * height)
        self.annotations.append(dict(common, iscrowd=int(crowd), segmentation=outline))

    @staticmethod
    def _rle(box: np.ndarray, as_list: bool = False) -> dict[str, Any]:
        x, y, width, height = box.astype(int)
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order='F')
        mask[y : y + height, x : x + width] = 1
        if as_list:
            flat = np.concatenate([[0], mask.ravel(order='F'), [2]])
            steps = np.flatnonzero(np.diff(flat)) if flat[1] == 0 else np.concatenate([[0], np.flatnonzero(np.diff(flat))])
            return dict(size=[HEIGHT, WIDTH], counts=np.diff(np.concatenate([[0], steps])).tolist())
        code = mask_tools.encode(mask)
        return dict(size=code['size'], counts=code['counts'].decode())

    def _detect(self, image_id: int, category_id: int, box: np.ndarray, score: float) -> None:
        common = dict(image_id=image_id, category_id=category_id, score=score)
        self.boxes.append(dict(common, bbox=[float(value) for value in box]))
        self.masks.append(dict(common, segmentation=self._rle(box)))

    def write(self, name: str, content: Any) -> Path:
        path = self.folder / f'{name}.json'
        path.write_text(json.dumps(content))
        return path


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp('made'))


def direct(truth: Path, result: Path, iou_type: str) -> dict[str, float]:
    """What pycocotools says when it is called as its own example does."""
    ground_truth = COCO(str(truth))
    evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(result)), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return {f'{iou_type}_{name}': value for name, value in zip(FIGURES, evaluation.stats.tolist(), strict=True)}


def samples_of(truth: Path, detections: list[dict[str, Any]], masks: list[dict[str, Any]] | None = None) -> list[DetDataSample]:
    """The detections as a detector of MMDetection gives them: data samples with classes from 0, boxes by their corners."""
    content = json.loads(truth.read_text())
    label_of = {category['id']: label for label, category in enumerate(content['categories'])}
    samples = []
    for image in content['images']:
        chosen = [index for index, entry in enumerate(detections) if entry['image_id'] == image['id']]
        boxes = torch.tensor([detections[index]['bbox'] for index in chosen], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        prediction = InstanceData(
            bboxes=boxes,
            scores=torch.tensor([detections[index]['score'] for index in chosen], dtype=torch.float64),
            labels=torch.tensor([label_of[detections[index]['category_id']] for index in chosen], dtype=torch.int64),
        )
        if masks is not None:
            shapes = [mask_tools.decode(masks[index]['segmentation']) for index in chosen]
            prediction.masks = torch.from_numpy(np.array(shapes, dtype=np.uint8).reshape(-1, image['height'], image['width'])).bool()
        sample = DetDataSample(metainfo=dict(img_id=image['id'], ori_shape=(image['height'], image['width'])))
        sample.pred_instances = prediction
        samples.append(sample)
    return samples


def evaluate(samples: list[DetDataSample], classes: Any = CLASSES, **arguments: Any) -> dict[str, float]:
    """Figures as a test reports them, by MMEngine's evaluator with the config of a foreign scope."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        evaluator = Evaluator(dict(type='dynperceiver_det.CocoMetric', **arguments))
    evaluator.dataset_meta = dict(classes=classes)
    for sample in samples:
        evaluator.process([sample])
    return evaluator.evaluate(len(samples))


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Messages of MMEngine's current logger."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(f'{record.levelname} {record.getMessage()}')

    handler, logger = Keep(), MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def test_made_data_is_worth_scoring(made: Made) -> None:
    figures = direct(made.truth, made.bbox, 'bbox')
    assert len(figures) == 12 and all(0.05 < value < 0.99 for value in figures.values())
    assert sum(entry['image_id'] == CROWDED for entry in made.boxes) > 100
    assert {annotation['iscrowd'] for annotation in made.annotations} == {0, 1}


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_result_file_scores_as_pycocotools_says(made: Made, iou_type: str, log: list[str]) -> None:
    result = {'bbox': made.bbox, 'segm': made.segm}[iou_type]
    assert score_detections(made.truth, result, iou_type) == direct(made.truth, result, iou_type)
    assert score_detections(COCO(str(made.truth)), str(result), iou_type) == direct(made.truth, result, iou_type)
    tables = [message for message in log if 'Average Precision' in message]
    assert len(tables) == 2 and tables[0].count('Average') == 12 and f'{iou_type} of {len(made.boxes)} detections in 20 images' in tables[0]


def test_categories_and_images_can_be_chosen(made: Made) -> None:
    part = score_detections(made.truth, made.bbox, 'bbox', category_ids=[7], image_ids=list(range(1, 11)))
    ground_truth = COCO(str(made.truth))
    evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(made.bbox)), 'bbox')
    evaluation.params.catIds, evaluation.params.imgIds = [7], list(range(1, 11))
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert list(part.values()) == evaluation.stats.tolist()


def test_metric_reports_pycocotools_figures_under_mmdets_prefix(made: Made) -> None:
    expected = {**direct(made.truth, made.bbox, 'bbox'), **direct(made.truth, made.segm, 'segm')}
    figures = evaluate(samples_of(made.truth, made.boxes, made.masks), ann_file=str(made.truth), metric=['bbox', 'segm'])
    assert figures == {f'coco/{name}': value for name, value in expected.items()}


def test_metric_serves_every_epoch(made: Made) -> None:
    metric = CocoMetric(ann_file=str(made.truth))
    metric.dataset_meta = dict(classes=CLASSES)
    for detections in (made.boxes, made.boxes[::2], made.boxes):
        metric.process({}, [sample.to_dict() for sample in samples_of(made.truth, detections)])
        expected = direct(made.truth, made.write('epoch', detections), 'bbox')
        assert metric.evaluate(NUM_IMAGES) == {f'coco/{name}': value for name, value in expected.items()}


def test_boxes_in_mask_results_do_not_change_which_masks_are_small(made: Made) -> None:
    both = [dict(mask, bbox=[0, 0, 1, 1]) for mask in made.masks]
    assert score_detections(made.truth, made.write('both.segm', both), 'segm') == direct(made.truth, made.segm, 'segm')


def test_ground_truth_may_come_with_the_samples(made: Made) -> None:
    samples = samples_of(made.truth, made.boxes)
    labels = list(CATEGORIES)
    for sample in samples:
        own = [annotation for annotation in made.annotations if annotation['image_id'] == sample.img_id]
        corners = [np.add(entry['bbox'], [0, 0, *entry['bbox'][:2]]).tolist() for entry in own]
        instances = [
            dict(bbox=box, bbox_label=labels.index(entry['category_id']), ignore_flag=entry['iscrowd'])
            for box, entry in zip(corners, own, strict=True)
        ]
        sample.set_metainfo(dict(instances=instances))
    assert list(evaluate(samples).values()) == list(direct(made.truth, made.bbox, 'bbox').values())


def test_classwise_is_the_figure_of_that_class_alone(made: Made, log: list[str]) -> None:
    samples = samples_of(made.truth, made.boxes, made.masks)
    figures = evaluate(samples, ann_file=str(made.truth), classwise=True)
    for number, name in CATEGORIES.items():
        alone = score_detections(made.truth, made.bbox, 'bbox', category_ids=[number])
        assert figures[f'coco/{name}_precision'] == alone['bbox_mAP']
    assert {f'coco/{key}' for key in direct(made.truth, made.bbox, 'bbox')} < set(figures) and len(figures) == 15
    assert any('| category |' in message and '| ring ' in message for message in log)
    both = evaluate(samples, ann_file=str(made.truth), metric=['bbox', 'segm'], classwise=True)
    assert both['coco/bbox_star_precision'] == figures['coco/star_precision'] != both['coco/segm_star_precision']
    assert len(both) == 30


def test_class_without_objects_is_marked(made: Made, tmp_path: Path) -> None:
    content = json.loads(made.truth.read_text())
    content['categories'].append(dict(id=12, name='comet'))
    (tmp_path / 'truth.json').write_text(json.dumps(content))
    figures = score_detections(tmp_path / 'truth.json', made.bbox, 'bbox', classwise=True)
    assert figures['comet_precision'] == -1
    assert figures['bbox_mAP'] == direct(made.truth, made.bbox, 'bbox')['bbox_mAP']


def test_format_only_writes_results_that_score_the_same(made: Made, tmp_path: Path) -> None:
    samples = samples_of(made.truth, made.boxes, made.masks)
    prefix = str(tmp_path / 'kept')
    assert evaluate(samples, ann_file=str(made.truth), format_only=True, outfile_prefix=prefix) == {}
    assert score_detections(made.truth, f'{prefix}.bbox.json', 'bbox') == direct(made.truth, made.bbox, 'bbox')
    assert score_detections(made.truth, f'{prefix}.segm.json', 'segm') == direct(made.truth, made.segm, 'segm')
    figures = evaluate(samples, ann_file=str(made.truth), outfile_prefix=str(tmp_path / 'too'))
    assert (tmp_path / 'too.bbox.json').is_file() and len(figures) == 12
    with pytest.raises(ValueError, match=r"format_only=True needs outfile_prefix='FOLDER/NAME'"):
        CocoMetric(format_only=True)


def test_proposals_are_left_to_mmdet(made: Made) -> None:
    samples = samples_of(made.truth, made.boxes)
    theirs = METRICS.build(dict(type='mmdet.CocoMetric', ann_file=str(made.truth), metric='proposal', metric_items=['AR@100']))
    theirs.dataset_meta = dict(classes=CLASSES)
    theirs.process({}, [sample.to_dict() for sample in samples])
    ours = evaluate(samples, ann_file=str(made.truth), metric=['proposal', 'bbox'])
    assert ours['coco/AR@100'] == theirs.evaluate(len(samples))['coco/AR@100']
    assert ours['coco/bbox_mAP'] == direct(made.truth, made.bbox, 'bbox')['bbox_mAP'] and 'coco/AR@1000' in ours


def test_no_detection_gives_zeros_and_a_warning(made: Made, log: list[str]) -> None:
    figures = evaluate(samples_of(made.truth, [], []), ann_file=str(made.truth), metric=['bbox', 'segm'])
    assert len(figures) == 24 and set(figures.values()) == {0.0}
    assert sum(message.startswith('WARNING') and 'holds no detection: all figures are zero' in message for message in log) == 2
    assert set(evaluate([], ann_file=str(made.truth)).values()) == {0.0}
    assert 'WARNING no image was predicted: all figures are zero' in log


FAULTS: list[tuple[Any, str]] = [
    (dict(images=[]), r'holds a dict, not a list; COCO results are a list of dicts with image_id'),
    ([7], r'entry 0 is a int, not a dict; bbox results are dicts with image_id, category_id, bbox, score'),
    ([dict(image_id=1, category_id=3, bbox=[0, 0, 5, 5], score=1), dict(image_id=1, bbox=[])], r'entry 1 lacks category_id, score; '),
    ([dict(image_id=[1], category_id=3, bbox=[0, 0, 5, 5], score=1)], r'entry 0 has image_id \[1\], not a whole number'),
    ([dict(image_id=1, category_id=3, bbox=[0, 0, 5], score=1)], r'has bbox \[0, 0, 5\], not four finite numbers x, y, width, height'),
    ([dict(image_id=1, category_id=3, bbox=[0, 0, 5, float('inf')], score=1)], r'inf\], not four finite numbers'),
    ([dict(image_id=1, category_id=3, bbox=[0, 0, 5, 5], score=float('nan'))], r'entry 0 has score nan, not a finite number'),
    (
        [dict(image_id=1, category_id=3, bbox=[0, 0, 5, 5], score=1), dict(image_id=77, category_id=3, bbox=[0, 0, 5, 5], score=1)],
        r'faulty\.json has image id 77, in all 1 that are not among the 20 images of the ground truth; score it with the annotation file',
    ),
    (
        [dict(image_id=1, category_id=0, bbox=[0, 0, 5, 5], score=1)],
        r'has category id 0, which the ground truth lacks \(its 3 ids run from 3 to 9\); results carry the category ids of the annotation',
    ),
]


@pytest.mark.parametrize(('content', 'message'), FAULTS)
def test_faulty_result_is_named(made: Made, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        score_detections(made.truth, made.write('faulty', content), 'bbox')
    assert str(caught.value).startswith(str(made.folder / 'faulty.json'))


def test_faulty_masks_files_and_arguments_are_named(made: Made, tmp_path: Path) -> None:
    polygon = [dict(image_id=1, category_id=3, segmentation=[[0, 0, 5, 0, 5, 5]], score=1)]
    with pytest.raises(ValueError, match=r'entry 0 has a segmentation that is no compressed RLE \{size, counts\}; pycocotools\.mask makes'):
        score_detections(made.truth, made.write('faulty', polygon), 'segm')
    with pytest.raises(ValueError, match=r"iou_type='keypoints': choose from bbox, segm"):
        score_detections(made.truth, made.bbox, 'keypoints')
    with pytest.raises(FileNotFoundError, match=r'result file none\.json is missing; tools/test\.py CONFIG CHECKPOINT --out FILE\.pkl'):
        score_detections(made.truth, 'none.json')
    with pytest.raises(FileNotFoundError, match=r'ground truth none\.json is missing; set ann_file of test_evaluator in the config'):
        score_detections('none.json', made.bbox)
    with pytest.raises(ValueError, match=r'ground truth .*bbox\.json is not in the format of COCO .*; correct ann_file in the config'):
        score_detections(made.bbox, made.bbox)
    (tmp_path / 'images_only.json').write_text('{"images": []}')
    with pytest.raises(ValueError, match=r'lacks images, annotations or categories; COCO figures need all three'):
        score_detections(tmp_path / 'images_only.json', made.bbox)
    (tmp_path / 'cut.json').write_text('[{"image_id"')
    with pytest.raises(ValueError, match=r'cut\.json cannot be read as JSON \(.*\); write it again'):
        score_detections(made.truth, tmp_path / 'cut.json')


@pytest.mark.parametrize('argument', [dict(iou_thrs=[0.5]), dict(metric_items=['mAP']), dict(use_mp_eval=True)])
def test_other_figures_than_cocos_are_mmdets(argument: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(argument))}=.* is not taken for bbox: figures are COCO's own, .*'mmdet.CocoMetric'"):
        CocoMetric(**argument)
    assert CocoMetric(metric='proposal', **argument).metrics == ['proposal']


def test_what_does_not_belong_together_is_refused(made: Made) -> None:
    samples = samples_of(made.truth, made.boxes)
    truth = str(made.truth)
    with pytest.raises(FileNotFoundError, match=r'annotation file none\.json is missing; set ann_file of the evaluator'):
        CocoMetric(ann_file='none.json')
    with pytest.raises(ValueError, match=r"metric='segm' needs masks, and the predictions have none; use metric='bbox', or a detector"):
        evaluate(samples, ann_file=truth, metric='segm')
    with pytest.raises(ValueError, match=r'the data set does not name its classes; set metainfo=dict\(classes=\(\.\.\.\)\)'):
        evaluate(samples, classes=None, ann_file=truth)
    with pytest.raises(ValueError, match=r"has no category 'moon', in all 1 of the 4 classes of the data set, so that class numbers would"):
        evaluate(samples, classes=(*CLASSES, 'moon'), ann_file=truth)
    with pytest.raises(ValueError, match=r'the model predicts class number 2, but the data set has 2 classes; set num_classes of its head'):
        evaluate(samples, classes=('ring', 'star'), ann_file=truth)
    samples[0].set_metainfo(dict(img_id=505))
    with pytest.raises(ValueError, match=r'results\.bbox\.json has image id 505, in all 1 that are not among the 20 images'):
        evaluate(samples, ann_file=truth)


@pytest.fixture(scope='module')
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of COCO's own example of 100 images, unpacked from where it is kept."""
    archive = Path(os.environ.get('DYNPERCEIVER_COCO_GOLDEN') or ROOT.parent / 'shared' / 'data' / 'coco_golden.tar.xz')
    if not archive.is_file():
        pytest.skip(f"COCO's example is not at {archive}; DYNPERCEIVER_COCO_GOLDEN names the archive of its annotations and results")
    folder = tmp_path_factory.mktemp('golden')
    with tarfile.open(archive) as files:
        files.extractall(folder, filter='data')
    return next(folder.rglob('instances_val2014_100.json')).parent


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_example_of_coco_scores_as_published(golden: Path, iou_type: str) -> None:
    expected = json.loads((ROOT / 'tests' / 'golden' / 'coco_golden_stats.json').read_text())[iou_type]
    truth, result = golden / 'instances_val2014_100.json', golden / f'instances_val2014_fake{iou_type}100_results.json'
    assert list(score_detections(truth, result, iou_type).values()) == pytest.approx(expected, rel=0, abs=1e-12)
    if iou_type == 'bbox':
        classes = [category['name'] for category in json.loads(truth.read_text())['categories']]
        figures = evaluate(samples_of(truth, json.loads(result.read_text())), classes=classes, ann_file=str(truth))
        assert list(figures.values()) == pytest.approx(expected, rel=0, abs=1e-12)


def test_example_of_coco_scores_as_published_from_a_pickle(golden: Path, tmp_path: Path) -> None:
    expected = json.loads((ROOT / 'tests' / 'golden' / 'coco_golden_stats.json').read_text())['bbox']
    truth, result = golden / 'instances_val2014_100.json', golden / 'instances_val2014_fakebbox100_results.json'
    samples = [sample.to_dict() for sample in samples_of(truth, json.loads(result.read_text()))]
    (tmp_path / 'kept.pkl').write_bytes(pickle.dumps(samples))
    dataset = dict(type='CocoDataset', ann_file=str(truth), data_prefix=dict(img='nowhere/'), test_mode=True, pipeline=[])
    evaluator = dict(type='dynperceiver_det.CocoMetric', ann_file=str(truth))
    cfg = Config(dict(test_dataloader=dict(dataset=dataset), test_evaluator=evaluator))
    assert list(score_result(cfg, tmp_path / 'kept.pkl').values()) == pytest.approx(expected, rel=0, abs=1e-12)
