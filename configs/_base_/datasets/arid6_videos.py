# ARID-6: six human actions filmed in the dark, 150 training and 96 test clips of 320x240 pixels and 1 to 3.5 s, official split.
# Each action has few training scenes, mostly others than in the test clips, so that appearance misleads. The network therefore gets
# differences of neighbouring frames, at sizes and places drawn anew for every clip; ClipExposure lifts the footage, whose mean is below
# 20 of 255, first. Played backwards, sitting down (2) becomes standing up (3), in the scenes of the other.
# There is no calibration_dataloader: test clips test, and the training clips show two to four scenes per class, of which one held out
# (part='holdout', group_pattern=r'_(\d+)_\d+\.') says too little. With clips of your own, add one in the form of test_dataloader.
data_root = 'data/arid6'
dataset_type = 'dynperceiver_action.Arid6Dataset'
source = 'ARID (six-class subset, Xu et al. 2020, research use only), https://xuyu0010.github.io/arid.html'
num_classes = 6
meta_keys = ('img_shape', 'img_key', 'video_id', 'timestamp', 'filename')

train_pipeline = [
    dict(type='dynperceiver_action.DecordInit'),
    dict(type='mmaction.SampleFrames', clip_len=4, frame_interval=2, num_clips=8),
    dict(type='mmaction.DecordDecode'),
    dict(type='dynperceiver_action.TemporalFlip', label_map={2: 3, 3: 2}),
    dict(type='mmaction.Resize', scale=(-1, 80)),
    dict(type='dynperceiver_action.ClipExposure'),
    dict(type='dynperceiver_action.FrameDifference'),
    dict(type='mmaction.Flip', flip_ratio=0.5),
    dict(type='dynperceiver_action.RandomPlacement', size=(64, 80)),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs', meta_keys=meta_keys),
]
test_pipeline = [
    dict(type='dynperceiver_action.DecordInit'),
    dict(type='mmaction.SampleFrames', clip_len=4, frame_interval=2, num_clips=8, test_mode=True),
    dict(type='mmaction.DecordDecode'),
    dict(type='mmaction.Resize', scale=(-1, 80)),
    dict(type='dynperceiver_action.ClipExposure'),
    dict(type='dynperceiver_action.FrameDifference'),
    dict(type='mmaction.Resize', scale=(80, 64), keep_ratio=False),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs', meta_keys=meta_keys),
]

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='labels.csv',
        split='train',
        data_prefix=dict(video=''),
        source=source,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='labels.csv',
        split='validate',
        data_prefix=dict(video=''),
        source=source,
        pipeline=test_pipeline,
        test_mode=True))
test_dataloader = val_dataloader

val_evaluator = dict(type='dynperceiver.MultiExitAccuracy')
test_evaluator = val_evaluator
