# The same detector on a smaller Dyn-Perceiver: RegNetY-800MF, 128 latents.
_base_ = './faster-rcnn_dynperceiver-regnety-1.6gf_fpn_1x_coco.py'
model = dict(backbone=dict(feature_branch='regnet_y_800mf', num_latents=128, depth_factors=(1, 1, 1, 2)))
