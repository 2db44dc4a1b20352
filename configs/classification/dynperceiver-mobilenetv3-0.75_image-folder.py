# Images of your own, a folder per class: fine-tunes MobileNet-v3-Large x0.75 from the image checkpoint in model.init_cfg.checkpoint.
# In a config of your own, set data_root, the classes and model.backbone.num_classes; README.md has an example.
_base_ = [
    '../_base_/models/classifier_dynperceiver_imagenet.py',
    '../_base_/datasets/image_folder.py',
    '../_base_/schedules/adamw_finetune_20e.py',
    '../_base_/classification_runtime.py',
]
model = dict(
    backbone=dict(
        feature_branch='mobilenet_v3_large', width=0.75, depth_factors=(1, 1, 1, 3), dropout=0.2, num_classes=_base_.num_classes),
    loss=dict(label_smoothing=0.1),
    data_preprocessor=dict(before_norm=[], mixing=None))
