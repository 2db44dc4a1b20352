# Small enough for two CPU cores, from random weights: ResNet-18 x0.5, 32 latents. What it overrides is dynperceiver_regnety-1.6gf.py's.
small = dict(
    feature_branch='resnet18',
    width=0.5,
    num_latents=32,
    depth_factors=(1 / 3, 1 / 3, 2 / 9, 1 / 3),
    frozen_stages=-1,
    norm_eval=False)
