# RegNetY-800MF with 128 latents and the ImageNet recipe: the loss over all exits, and the augmentation of whole batches.
model = dict(
    type='dynperceiver_cls.DynPerceiverClassifier',
    backbone=dict(
        type='dynperceiver.DynPerceiver',
        feature_branch='regnet_y_800mf',
        num_latents=128,
        depth_factors=(1, 1, 1, 2),
        num_classes=1000),
    loss=dict(type='dynperceiver.MultiExitLoss', exit_weights=(0.5, 0.5, 1.0, 1.0), distill_weight=0.5, temperature=1.0),
    data_preprocessor=dict(
        type='dynperceiver_cls.ClsDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        before_norm=[
            dict(type='dynperceiver_cls.RandAugment', num_ops=2, magnitude=9, magnitude_std=0.5, prob=0.5, increasing=True)
        ],
        after_norm=[dict(type='dynperceiver_cls.RandomErasing', prob=0.25, area=(0.02, 1 / 3), ratio=(0.3, 3.3), mode='pixel')],
        mixing=dict(
            type='dynperceiver_cls.MixupCutmix',
            num_classes=1000,
            mixup_alpha=0.8,
            cutmix_alpha=1.0,
            prob=1.0,
            switch_prob=0.5,
            label_smoothing=0.1)),
    # An image checkpoint to start from: --cfg-options model.init_cfg.checkpoint=PATH (ours, or the authors' published files)
    init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=None))
