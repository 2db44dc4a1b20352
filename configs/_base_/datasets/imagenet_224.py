# ImageNet-1k: 1000 classes, training crops of 224x224 px, tested on the centre of images whose shorter edge is 256 px.
# RandAugment, mixup, cutmix and random erasing work on whole batches, in the model's data_preprocessor.
# Folders: train/WNID/*.JPEG and val/WNID/*.JPEG. Where the validation images lie in one folder, add ann_file='meta/val.txt' (lines
# `NAME LABEL`) to the data set of val_dataloader and of test_dataloader.
# The published recipe trains on all images, so that none is left for tools/calibrate.py, which needs 2 % of them, 26 of most classes:
# train for it with --cfg-options train_dataloader.dataset.part=train. Otherwise it refuses, and says so.
_base_ = './photos_224.py'
data_root = 'data/imagenet'
dataset_type = 'dynperceiver_cls.ImageNet'
source = 'ImageNet-1k (ILSVRC 2012 classification), https://image-net.org, after registration'
num_classes = 1000
holdout = 0.02
split_seed = 0

train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    dataset=dict(
        type=dataset_type, data_root=data_root, split='train', part='all', holdout=holdout, split_seed=split_seed,
        num_classes=num_classes, source=source))
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    dataset=dict(
        type=dataset_type, data_root=data_root, split='val', num_classes=num_classes, source=source))
test_dataloader = val_dataloader
calibration_dataloader = dict(
    batch_size=128,
    num_workers=8,
    dataset=dict(
        type=dataset_type, data_root=data_root, split='train', part='holdout', holdout=holdout, split_seed=split_seed,
        num_classes=num_classes, source=source))
