"""What the command lines know of object detection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynperceiver.launch.arguments import UsageError
from dynperceiver.launch.tasks import TaskSupport, TestTimeAugmentation, register_task

from .registry import SCOPE

__all__ = ['DETECTION']

# What mmdet's tools/test.py takes where a config has no test-time augmentation of its own. DetTTAModel and TestTimeAug are registered in
# MMEngine's registries, not in mmdet's, so that they are found by their bare names from the scope mmdet, and not by mmdet's prefix.
TTA_MODEL = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
PACK = 'PackDetInputs'


def _flipped_too(pipeline: Sequence[Any]) -> list[Any]:
    if not pipeline or not pipeline[-1].type.endswith(PACK):
        raise UsageError(f'--tta flips before {PACK}, which does not end the test pipeline; add tta_pipeline to the config')
    flips = [dict(type='mmdet.RandomFlip', prob=1.0), dict(type='mmdet.RandomFlip', prob=0.0)]
    return [*pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [dict(type=f'mmdet.{PACK}', meta_keys=META_KEYS)]])]


def _draw_settings(show: bool, out_dir: str | None, wait_time: float, interval: int) -> dict[str, Any]:
    if interval != 1:
        raise UsageError(f"--interval {interval}: MMDetection's DetVisualizationHook draws every image of a test; leave it out")
    return dict(draw=True, show=show, test_out_dir=out_dir, wait_time=wait_time, interval=interval)


DETECTION = register_task(
    TaskSupport(
        name='object detection',
        models='detectors',
        scopes=('mmdet', SCOPE),
        has_exits=False,
        draw_hook='mmdet.DetVisualizationHook',
        draws_unasked=True,
        draw_settings=_draw_settings,
        dump_metric='mmdet.DumpDetResults',
        tta=TestTimeAugmentation(
            source='MMDetection',
            model=TTA_MODEL,
            model_in_words='NMS at IoU 0.5, 100 boxes per image',
            pipeline=_flipped_too,
            pipeline_in_words='each image as it is and flipped horizontally',
        ),
    )
)
