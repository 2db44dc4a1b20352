# 20,000 + 4,000 images of CIFAR-10 as JPEG files of 32x32 px, packed in one npz file; 10 classes. Shown enlarged to 64x64 px.
# Training sees the first 90 % of the training images of every class, validation the rest; tools/test.py takes the test images. The
# published figures were measured so, which split_seed = None repeats; the images have no names or dates that their order could follow.
# Data sets without it take a seeded choice.
_base_ = './image_loaders.py'
data_root = 'data'
dataset_type = 'dynperceiver_cls.PackedImages'
ann_file = 'cifar10_jpeg_20k_4k.npz'
source = 'CIFAR-10 (Krizhevsky, 2009), https://www.cs.toronto.edu/~kriz/cifar.html, recompressed as JPEG and packed'
num_classes = 10
holdout = 0.1
split_seed = None

train_pipeline = [
    dict(type='dynperceiver_cls.LoadImage'),
    dict(type='dynperceiver_cls.Resize', size=64),
    dict(type='dynperceiver_cls.RandomCrop', size=64, padding=8),
    dict(type='dynperceiver_cls.RandomFlip', prob=0.5),
    dict(type='dynperceiver_cls.PackInputs'),
]
test_pipeline = [
    dict(type='dynperceiver_cls.LoadImage'),
    dict(type='dynperceiver_cls.Resize', size=64),
    dict(type='dynperceiver_cls.PackInputs'),
]

train_dataloader = dict(
    num_workers=1,
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file=ann_file, split='train', part='train', holdout=holdout,
        split_seed=split_seed, source=source, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=128,
    num_workers=1,
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file=ann_file, split='train', part='holdout', holdout=holdout,
        split_seed=split_seed, source=source, pipeline=test_pipeline))
test_dataloader = dict(
    batch_size=128,
    num_workers=1,
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file=ann_file, split='test', source=source, pipeline=test_pipeline))
# Exit policies are solved on the images that validate: no weight was fitted to them, and no test image is among them.
calibration_dataloader = val_dataloader
