# ImageNet-1k with RegNetY-3.2GF and 256 latents.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(backbone=dict(feature_branch='regnet_y_3_2gf', num_latents=256, depth_factors=(1, 1, 1, 1)))
