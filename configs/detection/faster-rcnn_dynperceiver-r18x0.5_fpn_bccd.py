# Blood cells with a small Dyn-Perceiver from random weights: minutes on two CPU cores.
_base_ = [
    '../_base_/models/faster-rcnn_dynperceiver_small_fpn.py', '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/detection_small.py', '../_base_/detection_runtime.py',
]
model = dict(
    neck=dict(norm_cfg=dict(type='BN')),
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(bbox_head=dict(num_classes=_base_.num_classes)))
# few photos, short training: test what the weights were on average
custom_hooks = [
    *_base_.custom_hooks, dict(type='mmengine.EMAHook', momentum=0.01, update_buffers=True),
    dict(type='dynperceiver.SyncAveragedBuffersHook'),
]
input_shape = (312, 416)
