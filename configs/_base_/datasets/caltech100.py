# 8,242 photos of 100 classes: Caltech-101 without its background and without Faces_easy, shorter side 160 px, split in CSV files:
# train.csv 4,941, holdout.csv 1,238 for exit policies alone, test.csv 2,063. The classes are of 31 to 800 photos: accuracies are
# reported over all photos and as the mean of the classes. Seen at 160x160 px.
_base_ = './image_loaders.py'
data_root = 'data/caltech100'
dataset_type = 'dynperceiver_cls.CSVImages'
source = 'Caltech-101, https://data.caltech.edu/records/mzrjq-6wc02, with train.csv, holdout.csv and test.csv (columns path and label)'
metainfo = dict(classes=data_root + '/classes.txt')
num_classes = 100
input_shape = (160, 160)
image_size = 160

train_pipeline = [
    dict(type='dynperceiver_cls.LoadImage'),
    dict(type='dynperceiver_cls.RandomResizedCrop', size=image_size, scale=(0.35, 1.0), ratio=(3 / 4, 4 / 3), interpolation='bicubic'),
    dict(type='dynperceiver_cls.RandomFlip', prob=0.5),
    dict(type='dynperceiver_cls.PackInputs'),
]
test_pipeline = [
    dict(type='dynperceiver_cls.LoadImage'),
    dict(type='dynperceiver_cls.Resize', short_edge=image_size, interpolation='bicubic'),
    dict(type='dynperceiver_cls.CenterCrop', size=image_size),
    dict(type='dynperceiver_cls.PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='train.csv', metainfo=metainfo, source=source, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='holdout.csv', metainfo=metainfo, source=source, pipeline=test_pipeline))
test_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        type=dataset_type, data_root=data_root, ann_file='test.csv', metainfo=metainfo, source=source, pipeline=test_pipeline))
calibration_dataloader = val_dataloader
