# RetinaNet on a Dyn-Perceiver small enough for two CPU cores, from random weights (ResNet-18 x0.5, 32 latents, FPN of 64 channels).
_base_ = './retinanet_dynperceiver_fpn.py'
model = dict(
    backbone=dict(
        feature_branch='resnet18',
        width=0.5,
        num_latents=32,
        depth_factors=(1 / 3, 1 / 3, 2 / 9, 1 / 3),
        frozen_stages=-1,
        norm_eval=False),
    neck=dict(out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2))
