# The embedded demo images: handwritten digits on noise. Made by tools/make_demo_images.py data/demo_images, or by `make demo-images`.
# Exit policies are solved on images of their own, made with another seed from the digits that training never sees:
# python tools/make_demo_images.py data/demo_images_held_out --seed 1 --num-train 10 --num-val 1000
_base_ = './image_loaders.py'
data_root = 'data/demo_images'
dataset_type = 'dynperceiver_cls.ImageFolder'
source = 'tools/make_demo_images.py: run `python tools/make_demo_images.py data/demo_images`'
num_classes = 10
held_out_root = 'data/demo_images_held_out'
held_out_source = 'python tools/make_demo_images.py data/demo_images_held_out --seed 1 --num-train 10 --num-val 1000'

train_pipeline = [
    dict(type='dynperceiver_cls.LoadImage'),
    dict(type='dynperceiver_cls.RandomCrop', size=64, padding=6),
    dict(type='dynperceiver_cls.PackInputs'),
]
test_pipeline = [
    dict(type='dynperceiver_cls.LoadImage'),
    dict(type='dynperceiver_cls.PackInputs'),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        type=dataset_type, data_root=data_root, data_prefix=dict(img_path='train'), source=source, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    dataset=dict(
        type=dataset_type, data_root=data_root, data_prefix=dict(img_path='val'), class_folder='train', source=source,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
calibration_dataloader = dict(
    batch_size=100,
    num_workers=1,
    dataset=dict(
        type=dataset_type, data_root=held_out_root, data_prefix=dict(img_path='val'), class_folder='train', source=held_out_source,
        pipeline=test_pipeline))
