# Blood cells with a small Dyn-Perceiver from random weights: minutes on two CPU cores.
_base_ = [
    '../_base_/models/faster-rcnn_dynperceiver_fpn.py', '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/detection_small.py', '../_base_/detection_runtime.py',
]
norm_cfg = dict(type='BN')
model = dict(
    backbone=dict(
        feature_branch='resnet18', width=0.5, num_latents=32, depth_factors=(1 / 3, 1 / 3, 2 / 9, 1 / 3), frozen_stages=-1, norm_eval=False),
    neck=dict(out_channels=64, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=_base_.num_classes)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=300), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300)))
# few photos, short training: test what the weights were on average
custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook', momentum=0.01, update_buffers=True)]
input_shape = (240, 320)
