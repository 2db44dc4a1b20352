# The demo without temporal shift: what is left shows how much of the demo's accuracy is motion.
_base_ = ['./tsm_dynperceiver_demo.py']
model = dict(backbone=dict(temporal_shift=None))
work_dir = 'work_dirs/demo_noshift'
