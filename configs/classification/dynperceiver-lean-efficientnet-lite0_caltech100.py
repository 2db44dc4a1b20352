# Lean exits and the CNN trained together. With load_from=work_dirs/graft/graft.pth it goes on from exits that tools/graft.py made.
_base_ = ['./efficientnet-lite0_caltech100.py']
model = dict(
    backbone=dict(
        _delete_=True, type='dynperceiver.DynPerceiver', feature_branch='efficientnet_lite0', latent_width=128, num_latents=8,
        num_classes=100, frozen_stages=2),
    loss=dict(exit_weights=(1, 1, 1), distill_weight=1.0))
default_hooks = dict(checkpoint=dict(save_best='acc/exit3_top1'))
