# The embedded demo clips: handwritten digits in eight motions. Made by tools/make_demo_clips.py data/demo, or by `make demo`.
# No flips and no rotations: left and right, up and down, clockwise and anticlockwise are classes.
# Exit policies are solved on clips of their own, made with another seed from the digits that training never sees:
# python tools/make_demo_clips.py data/demo_held_out --seed 1 --num-train 8 --num-val 800
data_root = 'data/demo'
dataset_type = 'dynperceiver_action.VideoDataset'
source = 'tools/make_demo_clips.py: run `python tools/make_demo_clips.py data/demo`'
num_classes = 8
held_out_root = 'data/demo_held_out'
held_out_source = 'python tools/make_demo_clips.py data/demo_held_out --seed 1 --num-train 8 --num-val 800'
meta_keys = ('img_shape', 'img_key', 'video_id', 'timestamp', 'filename')

train_pipeline = [
    dict(type='dynperceiver_action.DecordInit'),
    dict(type='mmaction.SampleFrames', clip_len=8, frame_interval=2, num_clips=1),
    dict(type='mmaction.DecordDecode'),
    dict(type='mmaction.RandomCrop', size=64),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs', meta_keys=meta_keys),
]
test_pipeline = [
    dict(type='dynperceiver_action.DecordInit'),
    dict(type='mmaction.SampleFrames', clip_len=1, frame_interval=1, num_clips=8, test_mode=True),
    dict(type='mmaction.DecordDecode'),
    dict(type='mmaction.CenterCrop', crop_size=64),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs', meta_keys=meta_keys),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='train.txt',
        data_prefix=dict(video=''),
        source=source,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='val.txt',
        data_prefix=dict(video=''),
        source=source,
        pipeline=test_pipeline,
        test_mode=True))
test_dataloader = val_dataloader
calibration_dataloader = dict(
    val_dataloader,
    dataset=dict(val_dataloader['dataset'], data_root=held_out_root, source=held_out_source))

val_evaluator = dict(type='dynperceiver.MultiExitAccuracy')
test_evaluator = val_evaluator
