# The same detector on another Dyn-Perceiver: ResNet-50 x0.625, 128 latents.
_base_ = './faster-rcnn_dynperceiver-regnety-1.6gf_fpn_1x_coco.py'
model = dict(backbone=dict(feature_branch='resnet50', width=0.625, num_latents=128, depth_factors=(1, 1, 1, 1)))
