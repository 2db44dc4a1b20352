# Something-Something V1 with RegNetY-800MF and 128 latents; starts from the authors' reg800m checkpoint where one is given.
_base_ = ['./tsm_dynperceiver.py']
model = dict(backbone=dict(feature_branch='regnet_y_800mf', width=1.0, depth_factors=(1, 1, 1, 2), dropout=0.0))
