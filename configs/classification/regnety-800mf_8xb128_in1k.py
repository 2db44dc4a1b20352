# The backbone-only baseline of dynperceiver-regnety-800mf_8xb128_in1k.py, trained alike: RegNetY-800MF with its own classifier.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(
    backbone=dict(_delete_=True, type='dynperceiver.StaticTrunk', feature_branch='regnet_y_800mf', num_classes=1000),
    loss=dict(exit_weights=(1, )))
default_hooks = dict(checkpoint=dict(save_best='acc/exit1_top1'))
