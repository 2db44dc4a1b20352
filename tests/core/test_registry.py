"""Building by name from any OpenMMLab project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mmengine.registry
import pytest
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import WEIGHT_INITIALIZERS as ROOT_WEIGHT_INITIALIZERS
from mmengine.registry import DefaultScope, Registry
from torch import nn

from dynperceiver import DynPerceiver, registry
from dynperceiver.feature_branches import FeatureBranch

NETWORK = {
    'type': 'dynperceiver.DynPerceiver',
    'feature_branch': 'resnet18',
    'width': 0.125,
    'num_latents': 8,
    'depth_factors': [1 / 3, 1 / 3, 1 / 9, 1 / 3],
    'num_classes': 3,
}
FOREIGN = Registry('model', parent=ROOT_MODELS, scope='dynperceiver_test_project')


@pytest.mark.parametrize('scope', ['dynperceiver', 'mmengine', FOREIGN.scope])
def test_default_scope_does_not_matter(scope: str) -> None:
    with DefaultScope.overwrite_default_scope(scope):
        for models in (ROOT_MODELS, FOREIGN, registry.MODELS):
            network = models.build(dict(NETWORK))
            assert isinstance(network, DynPerceiver)
            assert network.exits.num_classes == 3
        branch = ROOT_MODELS.build({'type': 'dynperceiver.FeatureBranch', 'name': 'resnet18', 'width': 0.125})
        assert isinstance(branch, FeatureBranch)
        assert ROOT_MODELS.build({'type': 'dynperceiver.MultiExitLoss', 'form': 'mixed'}).form == 'mixed'
        assert ROOT_HOOKS.build({'type': 'dynperceiver.NonFiniteLossHook', 'interval': 2}).interval == 2
        assert ROOT_METRICS.build({'type': 'dynperceiver.MultiExitAccuracy'}).topk == (1, 5)
        assert ROOT_WEIGHT_INITIALIZERS.build({'type': 'dynperceiver.ImageCheckpoint'}).checkpoint is None


NAMES = {  # one of each registry, and what building it gives
    'MODELS': (NETWORK, 'DynPerceiver'),
    'HOOKS': ({'type': 'dynperceiver.NonFiniteLossHook'}, 'NonFiniteLossHook'),
    'METRICS': ({'type': 'dynperceiver.MultiExitAccuracy'}, 'MultiExitAccuracy'),
    'WEIGHT_INITIALIZERS': ({'type': 'dynperceiver.ImageCheckpoint'}, 'ImageCheckpoint'),
}
CONSTRUCTOR = 'dynperceiver.GroupedOptimWrapperConstructor'


def fresh(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, '-c', code, *arguments], capture_output=True, text=True, check=False)


def test_a_config_finds_every_registry_in_a_fresh_process(tmp_path: Path) -> None:
    """One import fills all registries, for a default scope that knows nothing of them."""
    settings = {name: settings for name, (settings, _) in NAMES.items()}
    imports = "custom_imports = dict(imports=['dynperceiver'], allow_failed_imports=False)"
    (tmp_path / 'config.py').write_text(f'{imports}\nsettings = {settings!r}\n')
    code = f"""
import sys
from mmengine.config import Config
from mmengine import registry
cfg = Config.fromfile(sys.argv[1])
foreign = registry.Registry('model', parent=registry.MODELS, scope='foreign')
with registry.DefaultScope.overwrite_default_scope('foreign'):
    classes = [foreign.get('dynperceiver.MultiExitLoss'), registry.OPTIM_WRAPPER_CONSTRUCTORS.get({CONSTRUCTOR!r})]
    classes += [type(getattr(registry, name).build(settings)) for name, settings in cfg.settings.items()]
print(*(found.__name__ for found in classes))
"""
    result = fresh(code, str(tmp_path / 'config.py'))
    assert result.returncode == 0, result.stderr
    expected = ['MultiExitLoss', 'GroupedOptimWrapperConstructor', *(built for _, built in NAMES.values())]
    assert result.stdout.splitlines()[-1].split() == expected


def test_looking_up_registers_all_that_importing_everything_registers() -> None:
    code = """
import json
from dynperceiver import registry
children = {name: getattr(registry, name) for name in registry.__all__ if name != 'SCOPE'}
for child in children.values():
    child.import_from_location()
found = {name: sorted(child.module_dict) for name, child in children.items()}
import dynperceiver
for part in dir(dynperceiver):
    getattr(dynperceiver, part)
print(json.dumps([found, {name: sorted(child.module_dict) for name, child in children.items()}]))
"""
    result = fresh(code)
    assert result.returncode == 0, result.stderr
    found, everything = json.loads(result.stdout)
    assert found == everything and set(found) == {*NAMES, 'OPTIM_WRAPPER_CONSTRUCTORS'}
    assert all(found.values())


def test_names_need_the_prefix_elsewhere() -> None:
    with DefaultScope.overwrite_default_scope('mmengine'), pytest.raises(KeyError, match='MultiExitLoss'):
        ROOT_MODELS.build({'type': 'MultiExitLoss'})
    with DefaultScope.overwrite_default_scope('dynperceiver'):
        assert ROOT_MODELS.build({'type': 'MultiExitLoss'}).form == 'sum'


def test_a_builder_within_a_foreign_model() -> None:
    @FOREIGN.register_module(force=True)
    class Wrapper(nn.Module):
        def __init__(self, backbone: dict[str, object]) -> None:
            super().__init__()
            self.backbone = FOREIGN.build(backbone)

    with DefaultScope.overwrite_default_scope(FOREIGN.scope):
        assert isinstance(ROOT_MODELS.build({'type': 'Wrapper', 'backbone': NETWORK}).backbone, DynPerceiver)


def test_wrong_arguments_name_the_value() -> None:
    with pytest.raises(ValueError, match='num_latents=9 is not divisible by 8'):
        ROOT_MODELS.build({**NETWORK, 'num_latents': 9})


@pytest.mark.parametrize(
    ('where', 'name'),
    [('MODELS', 'DynPerceiver'), ('MODELS', 'MultiExitLoss'), ('HOOKS', 'NonFiniteLossHook'), ('METRICS', 'MultiExitAccuracy')],
)
def test_registering_twice_raises(where: str, name: str) -> None:
    with pytest.raises(KeyError, match=f'{name} is already registered'):
        getattr(registry, where).register_module(name=name, module=object)


def test_scope_and_parents() -> None:
    for name in (*NAMES, 'OPTIM_WRAPPER_CONSTRUCTORS'):
        root = getattr(mmengine.registry, name)
        child = getattr(registry, name)
        assert child.scope == registry.SCOPE == 'dynperceiver'
        assert child.parent is root
