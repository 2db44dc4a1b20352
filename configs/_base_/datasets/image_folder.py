# Images of your own in a folder per class: train/CLASS/*.jpg and val/CLASS/*.jpg, in any common format, folders may have folders.
# Set data_root and num_classes; the training folder says what the classes are, and the validation folder must have the same.
# Training takes all of its images. For tools/calibrate.py, which needs a tenth of them, train with
# --cfg-options train_dataloader.dataset.part=train, or name data of your own in calibration_dataloader. Where images belong together,
# set group_pattern: r'^[^/]*/([^/]*)/' for train/CLASS/PERSON/*.jpg, r'([^/]*)_\d+\.' for train/CLASS/VIDEO_0001.jpg.
_base_ = './photos_224.py'
data_root = 'data/my_images'
dataset_type = 'dynperceiver_cls.ImageFolder'
source = 'you: put images into train/CLASS/ and val/CLASS/ there'
num_classes = 2
holdout = 0.1
split_seed = 0
group_pattern = None

train_dataloader = dict(
    dataset=dict(
        type=dataset_type, data_root=data_root, data_prefix=dict(img_path='train'), part='all', holdout=holdout,
        split_seed=split_seed, group_pattern=group_pattern, source=source))
val_dataloader = dict(
    dataset=dict(
        type=dataset_type, data_root=data_root, data_prefix=dict(img_path='val'), class_folder='train', source=source))
test_dataloader = val_dataloader
calibration_dataloader = dict(
    dataset=dict(
        type=dataset_type, data_root=data_root, data_prefix=dict(img_path='train'), part='holdout', holdout=holdout,
        split_seed=split_seed, group_pattern=group_pattern, source=source))
