# ImageNet-1k with ResNet-50 x0.5 and 256 latents.
_base_ = ['./dynperceiver-r50x0.375_8xb128_in1k.py']
model = dict(backbone=dict(width=0.5, num_latents=256))
