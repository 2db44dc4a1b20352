# coco_mini: 52 / 52 genuine COCO photos with all 80 categories, shown small: far too few to learn from, enough to try everything.
_base_ = './coco_detection.py'
data_root = 'data/coco_mini/'
source = 'coco_mini, 104 photos of COCO 2017, https://cocodataset.org, with annotations/instances_train52.json and instances_val52.json'
scale = (320, 320)
train_pipeline = [dict(step, scale=scale) if 'scale' in step else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, scale=scale) if 'scale' in step else step for step in _base_.test_pipeline]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        data_root=data_root, ann_file='annotations/instances_train52.json', data_prefix=dict(img='images/'), source=source,
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        data_root=data_root, ann_file='annotations/instances_val52.json', data_prefix=dict(img='images/'), source=source,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val52.json')
test_evaluator = val_evaluator
