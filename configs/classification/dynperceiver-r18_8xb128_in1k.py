# ImageNet-1k with ResNet-18 and 128 latents.
_base_ = ['./dynperceiver-r50x0.375_8xb128_in1k.py']
model = dict(backbone=dict(feature_branch='resnet18', width=1.0))
