# ResNet-50 x0.625 with 128 latents in the TSM framework: 8 frames of 224x224, about 25.6 GMACs per clip at the last exit.
model = dict(
    type='dynperceiver_action.EarlyExitRecognizer',
    backbone=dict(
        type='dynperceiver.DynPerceiver',
        feature_branch='resnet50',
        width=0.625,
        num_latents=128,
        depth_factors=(1, 1, 1, 1),
        num_classes=174,
        num_frames=8,
        temporal_shift='bidirectional',
        dropout=0.2),
    loss=dict(type='dynperceiver.MultiExitLoss'),
    data_preprocessor=dict(
        type='mmaction.ActionDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape='NCHW'),
    # An image checkpoint to start from: --cfg-options model.init_cfg.checkpoint=PATH (ours, or the authors' published files)
    init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=None))
