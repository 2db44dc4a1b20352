# The same detector on a smaller Dyn-Perceiver: MobileNet-v3-Large x1.0, 128 latents.
_base_ = './retinanet_dynperceiver-regnety-1.6gf_fpn_1x_coco.py'
model = dict(backbone=dict(feature_branch='mobilenet_v3_large', width=1.0, num_latents=128, depth_factors=(1, 1, 1, 3)))
