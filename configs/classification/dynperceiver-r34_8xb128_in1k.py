# ImageNet-1k with ResNet-34 and 128 latents.
_base_ = ['./dynperceiver-r50x0.375_8xb128_in1k.py']
model = dict(backbone=dict(feature_branch='resnet34', width=1.0))
