# ImageNet-1k with RegNetY-400MF and 128 latents.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(backbone=dict(feature_branch='regnet_y_400mf'))
