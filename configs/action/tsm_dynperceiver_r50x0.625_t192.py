# Something-Something V1 with ResNet-50 x0.625 and 192 latents (the paper's third curve, about 28.7 GFLOPs per clip).
_base_ = ['./tsm_dynperceiver.py']
model = dict(backbone=dict(num_latents=192))
