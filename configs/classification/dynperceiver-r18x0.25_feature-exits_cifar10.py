# The paper's Table 2: exits 1 and 2 read the pooled feature maps x_2 and x_3 instead of the latent code.
_base_ = ['./dynperceiver-r18x0.25_cifar10.py']
model = dict(backbone=dict(early_exits='feature'))
