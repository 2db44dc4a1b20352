# Images of your own named in CSV files: train.csv and val.csv with the header `path,label` and a line for each image.
# Paths count from data_root/images. A label is the name of a class or its number; set the names here.
# Training takes all of its images. For tools/calibrate.py, which needs a tenth of them, train with
# --cfg-options train_dataloader.dataset.part=train, or name data of your own in calibration_dataloader. Where images belong together
# (of one person, of one video), add a column that says so to train.csv and set group_column here: they stay in one part.
_base_ = './photos_224.py'
data_root = 'data/my_images'
dataset_type = 'dynperceiver_cls.CSVImages'
source = 'you: write train.csv and val.csv there, and put the images into images/'
metainfo = dict(classes=('cat', 'dog'))
num_classes = 2
holdout = 0.1
split_seed = 0
group_column = None

train_dataloader = dict(
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='train.csv', data_prefix=dict(img_path='images'), part='all',
        holdout=holdout, split_seed=split_seed, group_column=group_column, metainfo=metainfo, source=source))
val_dataloader = dict(
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='val.csv', data_prefix=dict(img_path='images'), metainfo=metainfo,
        source=source))
test_dataloader = val_dataloader
calibration_dataloader = dict(
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='train.csv', data_prefix=dict(img_path='images'), part='holdout',
        holdout=holdout, split_seed=split_seed, group_column=group_column, metainfo=metainfo, source=source))
