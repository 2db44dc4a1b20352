# The paper's Table 4: 12 epochs, from an image checkpoint (--cfg-options model.backbone.init_cfg.checkpoint=PATH).
_base_ = [
    '../_base_/models/retinanet_dynperceiver_fpn.py', '../_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py', '../_base_/detection_runtime.py',
]
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001))
