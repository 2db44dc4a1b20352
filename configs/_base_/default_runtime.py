# Hooks, logging and TensorBoard for every task that runs on mmaction2.
custom_imports = dict(imports=['dynperceiver_action'], allow_failed_imports=False)
default_scope = 'mmaction'
default_hooks = dict(
    runtime_info=dict(type='mmengine.RuntimeInfoHook'),
    timer=dict(type='mmengine.IterTimerHook'),
    logger=dict(type='mmengine.LoggerHook', interval=20, ignore_last=False),
    param_scheduler=dict(type='mmengine.ParamSchedulerHook'),
    checkpoint=dict(type='mmengine.CheckpointHook', interval=1, save_best='acc/exit4_top1', rule='greater', max_keep_ckpts=3),
    sampler_seed=dict(type='mmengine.DistSamplerSeedHook'),
    sync_buffers=dict(type='mmengine.SyncBuffersHook'),
    visualization=dict(type='dynperceiver_action.DrawPredictionsHook'))
custom_hooks = [
    dict(type='dynperceiver.ResumableRandomnessHook'),
    dict(type='dynperceiver.NonFiniteLossHook'),
    dict(type='dynperceiver.TestScalarsHook'),
    dict(type='dynperceiver.SkippedSampleHook'),
    dict(type='dynperceiver.ReferenceCheckpointHook'),
    dict(type='dynperceiver.ClassNamesHook'),
    dict(type='dynperceiver.SplitRecordHook'),
]
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl'))
log_processor = dict(type='mmengine.LogProcessor', window_size=20, by_epoch=True)
vis_backends = [dict(type='mmengine.LocalVisBackend'), dict(type='mmengine.TensorboardVisBackend')]
visualizer = dict(type='mmaction.ActionVisualizer', vis_backends=vis_backends)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
