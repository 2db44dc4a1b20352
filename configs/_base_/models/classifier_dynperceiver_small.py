# A narrow ResNet-18 with 32 latents for small pictures, cheap enough to train on two CPU cores.
model = dict(
    type='dynperceiver_cls.DynPerceiverClassifier',
    backbone=dict(
        type='dynperceiver.DynPerceiver',
        feature_branch='resnet18',
        width=0.25,
        num_latents=32,
        depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3),
        num_classes=10),
    loss=dict(type='dynperceiver.MultiExitLoss', label_smoothing=0.1),
    data_preprocessor=dict(type='dynperceiver_cls.ClsDataPreprocessor', mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7]),
    init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=None))
