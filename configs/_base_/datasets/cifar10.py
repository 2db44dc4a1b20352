# CIFAR-10, the version for Python: 10 classes, 50,000 + 10,000 images of 32x32 px.
# Training takes crops out of the images with a border of 4 black pixels, and mirrors half of them.
# It takes all 50,000 images, so that none is left for tools/calibrate.py, which needs a tenth of them: train for it with
# --cfg-options train_dataloader.dataset.part=train. Otherwise it refuses, and says so.
_base_ = './image_loaders.py'
data_root = 'data/cifar'
dataset_type = 'dynperceiver_cls.CIFAR10'
source = 'CIFAR-10 python version (A. Krizhevsky), https://www.cs.toronto.edu/~kriz/cifar.html'
num_classes = 10
holdout = 0.1
split_seed = 0

train_pipeline = [
    dict(type='dynperceiver_cls.LoadImage'),
    dict(type='dynperceiver_cls.RandomCrop', size=32, padding=4),
    dict(type='dynperceiver_cls.RandomFlip', prob=0.5),
    dict(type='dynperceiver_cls.PackInputs'),
]
test_pipeline = [
    dict(type='dynperceiver_cls.LoadImage'),
    dict(type='dynperceiver_cls.PackInputs'),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    dataset=dict(
        type=dataset_type, data_root=data_root, split='train', part='all', holdout=holdout, split_seed=split_seed, source=source,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=256,
    num_workers=2,
    dataset=dict(
        type=dataset_type, data_root=data_root, split='test', source=source, pipeline=test_pipeline))
test_dataloader = val_dataloader
calibration_dataloader = dict(
    batch_size=256,
    num_workers=2,
    dataset=dict(
        type=dataset_type, data_root=data_root, split='train', part='holdout', holdout=holdout, split_seed=split_seed, source=source,
        pipeline=test_pipeline))
