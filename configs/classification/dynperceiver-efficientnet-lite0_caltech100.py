# The paper's form on the same CNN, trained alike.
_base_ = ['./efficientnet-lite0_caltech100.py']
model = dict(
    backbone=dict(
        _delete_=True, type='dynperceiver.DynPerceiver', feature_branch='efficientnet_lite0', num_latents=32,
        depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), num_classes=100, frozen_stages=2),
    loss=dict(exit_weights=(0.5, 0.5, 1, 1)))
default_hooks = dict(checkpoint=dict(save_best='acc/exit4_top1'))
