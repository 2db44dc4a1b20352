# The paper's Table 3: no feature-to-latent attention after stage 1, which always has it.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(backbone=dict(x2z=False))
