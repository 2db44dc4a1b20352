# Something-Something V1 with ResNet-50 x0.5 and 256 latents (the paper's first curve, about 19.2 GFLOPs per clip).
_base_ = ['./tsm_dynperceiver.py']
model = dict(backbone=dict(width=0.5, num_latents=256))
