# ImageNet-1k with MobileNet-v3-Large x2.0 and 128 latents.
_base_ = ['./dynperceiver-mobilenetv3-0.75_8xb128_in1k.py']
model = dict(backbone=dict(width=2.0))
