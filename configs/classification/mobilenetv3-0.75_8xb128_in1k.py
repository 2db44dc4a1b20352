# The backbone-only baseline of dynperceiver-mobilenetv3-0.75_8xb128_in1k.py, trained alike: the CNN with its own classifier.
_base_ = ['./dynperceiver-mobilenetv3-0.75_8xb128_in1k.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='dynperceiver.StaticTrunk',
        feature_branch='mobilenet_v3_large',
        width=0.75,
        dropout=0.2,
        num_classes=1000),
    loss=dict(exit_weights=(1, )))
default_hooks = dict(checkpoint=dict(save_best='acc/exit1_top1'))
