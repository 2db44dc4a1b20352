# The backbone-only baseline of dynperceiver-r18x0.25_cifar10.py, trained alike.
_base_ = ['./dynperceiver-r18x0.25_cifar10.py']
model = dict(
    backbone=dict(_delete_=True, type='dynperceiver.StaticTrunk', feature_branch='resnet18', width=0.25, num_classes=10),
    loss=dict(exit_weights=(1, )))
default_hooks = dict(checkpoint=dict(save_best='acc/exit1_top1'))
