# Blood cells with a small Dyn-Perceiver from random weights: minutes on two CPU cores.
_base_ = [
    '../_base_/models/retinanet_dynperceiver_fpn.py', '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/detection_small.py', '../_base_/detection_runtime.py',
]
norm_cfg = dict(type='BN')
model = dict(
    backbone=dict(
        feature_branch='resnet18', width=0.5, num_latents=32, depth_factors=(1 / 3, 1 / 3, 2 / 9, 1 / 3), frozen_stages=-1, norm_eval=False),
    neck=dict(out_channels=64, norm_cfg=norm_cfg),
    bbox_head=dict(num_classes=_base_.num_classes, in_channels=64, feat_channels=64, stacked_convs=2, norm_cfg=norm_cfg,
                   anchor_generator=dict(octave_base_scale=3)))
# few photos, short training: test what the weights were on average
custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook', momentum=0.01, update_buffers=True)]
input_shape = (240, 320)
