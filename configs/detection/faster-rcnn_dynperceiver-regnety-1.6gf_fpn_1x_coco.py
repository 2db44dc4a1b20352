# MMDetection's 1x schedule, from an image checkpoint (--cfg-options model.backbone.init_cfg.checkpoint=PATH).
_base_ = [
    '../_base_/models/faster-rcnn_dynperceiver_fpn.py', '../_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py', '../_base_/detection_runtime.py',
]
