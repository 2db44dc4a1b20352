# ImageNet-1k with ResNet-50 x1.0 and 128 latents.
_base_ = ['./dynperceiver-r50x0.375_8xb128_in1k.py']
model = dict(backbone=dict(width=1.0))
