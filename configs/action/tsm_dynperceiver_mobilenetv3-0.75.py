# Something-Something V1 with MobileNet-v3-Large x0.75 and 128 latents; shifts in the blocks with an identity shortcut.
_base_ = ['./tsm_dynperceiver.py']
model = dict(backbone=dict(feature_branch='mobilenet_v3_large', width=0.75, depth_factors=(1, 1, 1, 3)))
