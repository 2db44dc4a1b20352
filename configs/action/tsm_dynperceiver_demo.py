# The embedded demo: eight motions of handwritten digits that a single frame cannot tell apart. `make demo` runs it.
_base_ = [
    '../_base_/models/tsm_dynperceiver_r50.py',
    '../_base_/datasets/demo_videos.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        feature_branch='resnet18', width=0.25, num_latents=32, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), num_classes=8, dropout=0.0,
        shift_fold_div=4),
    # Every clip backwards, too, as the opposite motion: nothing but motion tells the two apart.
    data_preprocessor=dict(
        blending=dict(type='dynperceiver_action.BackwardCopies', label_map={0: 1, 1: 0, 2: 3, 3: 2, 4: 5, 5: 4, 6: 7, 7: 6})))
train_dataloader = dict(batch_size=8)  # 16 with the clips backwards
max_epochs = 3
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='mmengine.LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=70),
    dict(type='mmengine.CosineAnnealingLR', by_epoch=True, begin=0, end=max_epochs, eta_min_ratio=0.01, convert_to_iter_based=True),
]
work_dir = 'work_dirs/demo'
input_shape = (64, 64)
