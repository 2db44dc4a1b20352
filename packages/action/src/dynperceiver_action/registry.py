"""Child registries of MMEngine's root registries, with an explicit scope.

Everything here is reachable from any other OpenMMLab project by the prefix ``dynperceiver_action.``, for example
``dict(type='dynperceiver_action.VideoDataset', ...)``, whatever the default scope of the config is.
"""

from __future__ import annotations

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

__all__ = ['DATASETS', 'HOOKS', 'MODELS', 'SCOPE', 'TRANSFORMS']

SCOPE = 'dynperceiver_action'

MODELS = Registry('model', parent=MMENGINE_MODELS, scope=SCOPE)
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope=SCOPE)
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope=SCOPE)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope=SCOPE)
