# The paper's Table 3: no latent-to-feature attention after stage 4.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(backbone=dict(last_z2x=False))
