# The demo on frame differences: a network that has seen nothing but motion, to start small data sets from (see ARID-6).
_base_ = ['./tsm_dynperceiver_demo.py']
train_pipeline = [
    dict(type='dynperceiver_action.DecordInit'),
    dict(type='mmaction.SampleFrames', clip_len=4, frame_interval=1, num_clips=8),
    dict(type='mmaction.DecordDecode'),
    dict(type='dynperceiver_action.FrameDifference'),
    dict(type='dynperceiver_action.RandomPlacement', size=(64, 64)),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs', meta_keys={{_base_.meta_keys}}),
]
test_pipeline = [
    dict(type='dynperceiver_action.DecordInit'),
    dict(type='mmaction.SampleFrames', clip_len=4, frame_interval=1, num_clips=8, test_mode=True),
    dict(type='mmaction.DecordDecode'),
    dict(type='dynperceiver_action.FrameDifference'),
    dict(type='mmaction.Resize', scale=(64, 64), keep_ratio=False),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs', meta_keys={{_base_.meta_keys}}),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=5)  # motion alone is learned sooner
work_dir = 'work_dirs/demo_framediff'
