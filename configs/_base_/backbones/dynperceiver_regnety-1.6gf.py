# The backbone of the paper's Table 4: RegNetY-1.6GF, 256 latents. `model = dict(backbone=dict(_delete_=True, **_base_.dynperceiver))`
dynperceiver = dict(
    type='dynperceiver_det.DynPerceiverBackbone',
    feature_branch='regnet_y_1_6gf',
    num_latents=256,
    depth_factors=(1, 1, 1, 1),
    frozen_stages=1,
    norm_eval=True,
    # An image checkpoint to start from: --cfg-options model.backbone.init_cfg.checkpoint=PATH (ours, or the authors' published files)
    init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=None))
