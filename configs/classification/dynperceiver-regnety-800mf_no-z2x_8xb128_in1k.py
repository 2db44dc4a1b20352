# The paper's Table 3: no latent-to-feature attention after stages 1 to 3.
_base_ = ['./dynperceiver-regnety-800mf_8xb128_in1k.py']
model = dict(backbone=dict(z2x=False))
