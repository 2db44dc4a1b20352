# The paper's Table 2: exits 1 and 2 read the pooled feature maps x_2 and x_3 instead of the latent code.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(backbone=dict(early_exits='feature'))
