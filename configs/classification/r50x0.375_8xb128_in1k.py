# The backbone-only baseline of dynperceiver-r50x0.375_8xb128_in1k.py, trained alike: ResNet-50 x0.375 with its own classifier.
_base_ = ['./dynperceiver-r50x0.375_8xb128_in1k.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='dynperceiver.StaticTrunk',
        feature_branch='resnet50',
        width=0.375,
        dropout=0.2,
        drop_path=0.2,
        num_classes=1000),
    loss=dict(exit_weights=(1, )))
default_hooks = dict(checkpoint=dict(save_best='acc/exit1_top1'))
