# Something-Something V1: 174 classes, raw frames as the data set ships, one folder of 00001.jpg, 00002.jpg ... per clip.
# Sampling, crops and flips are those of TSM with 8 frames of 224x224; testing takes one centre crop of one clip.
# The lists have a line `folder number_of_frames label` per clip, as mmaction2's tools/data/build_file_list.py writes them.
# Training takes all clips of its list, so that none is left for tools/calibrate.py, which needs 2 % of them: train for it with
# --cfg-options train_dataloader.dataset.part=train. Otherwise it refuses, and says so.
data_root = 'data/sthv1'
dataset_type = 'dynperceiver_action.RawframeDataset'
source = 'Something-Something V1 (20BN, now Qualcomm), https://www.qualcomm.com/developer/software/something-something-v-2-dataset'
num_classes = 174
holdout = 0.02
split_seed = 0
meta_keys = ('img_shape', 'img_key', 'video_id', 'timestamp', 'frame_dir')
# Mirrored, these classes become one another: what went from left to right goes from right to left.
flip_label_map = {2: 4, 4: 2, 30: 41, 41: 30, 52: 66, 66: 52}

train_pipeline = [
    dict(type='mmaction.SampleFrames', clip_len=1, frame_interval=1, num_clips=8),
    dict(type='mmaction.RawFrameDecode'),
    dict(type='mmaction.Resize', scale=(-1, 256)),
    dict(
        type='mmaction.MultiScaleCrop',
        input_size=224,
        scales=(1, 0.875, 0.75, 0.66),
        random_crop=False,
        max_wh_scale_gap=1,
        num_fixed_crops=13),
    dict(type='mmaction.Resize', scale=(224, 224), keep_ratio=False),
    dict(type='mmaction.Flip', flip_ratio=0.5, flip_label_map=flip_label_map),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs', meta_keys=meta_keys),
]
test_pipeline = [
    dict(type='mmaction.SampleFrames', clip_len=1, frame_interval=1, num_clips=8, test_mode=True),
    dict(type='mmaction.RawFrameDecode'),
    dict(type='mmaction.Resize', scale=(-1, 256)),
    dict(type='mmaction.CenterCrop', crop_size=224),
    dict(type='mmaction.FormatShape', input_format='NCHW'),
    dict(type='mmaction.PackActionInputs', meta_keys=meta_keys),
]

train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='sthv1_train_list_rawframes.txt',
        data_prefix=dict(img='rawframes'),
        filename_tmpl='{:05}.jpg',
        part='all',
        holdout=holdout,
        split_seed=split_seed,
        source=source,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='mmengine.DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='sthv1_val_list_rawframes.txt',
        data_prefix=dict(img='rawframes'),
        filename_tmpl='{:05}.jpg',
        source=source,
        pipeline=test_pipeline,
        test_mode=True))
test_dataloader = val_dataloader
calibration_dataloader = dict(
    val_dataloader,
    dataset=dict(
        val_dataloader['dataset'], ann_file='sthv1_train_list_rawframes.txt', part='holdout', holdout=holdout,
        split_seed=split_seed))

val_evaluator = dict(type='dynperceiver.MultiExitAccuracy')
test_evaluator = val_evaluator
