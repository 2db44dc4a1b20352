# Blood cells with a small Dyn-Perceiver from random weights: minutes on two CPU cores.
_base_ = [
    '../_base_/models/retinanet_dynperceiver_small_fpn.py', '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/detection_small.py', '../_base_/detection_runtime.py',
]
model = dict(
    neck=dict(norm_cfg=dict(type='BN')),
    bbox_head=dict(num_classes=_base_.num_classes, norm_cfg=dict(type='BN'), anchor_generator=dict(octave_base_scale=3)))
# few photos, short training: test what the weights were on average
custom_hooks = [
    *_base_.custom_hooks, dict(type='mmengine.EMAHook', momentum=0.01, update_buffers=True),
    dict(type='dynperceiver.SyncAveragedBuffersHook'),
]
input_shape = (312, 416)
