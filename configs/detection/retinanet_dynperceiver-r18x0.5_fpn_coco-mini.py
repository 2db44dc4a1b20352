# All of training and testing on 104 COCO photos in a few minutes on two CPU cores.
_base_ = [
    '../_base_/models/retinanet_dynperceiver_fpn.py', '../_base_/datasets/coco_mini_detection.py',
    '../_base_/schedules/detection_small.py', '../_base_/detection_runtime.py',
]
model = dict(
    backbone=dict(
        feature_branch='resnet18', width=0.5, num_latents=32, depth_factors=(1 / 3, 1 / 3, 2 / 9, 1 / 3), frozen_stages=-1, norm_eval=False),
    neck=dict(out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2))
input_shape = (320, 320)
