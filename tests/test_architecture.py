"""Rules that keep the repository as its architecture document describes it; they read the sources and import nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
CORE = ROOT / 'packages' / 'core' / 'src' / 'dynperceiver'
SOURCES = sorted((ROOT / 'packages').glob('*/src/**/*.py'))
CORE_SOURCES = [path for path in SOURCES if CORE in path.parents]
TOOLS = sorted((ROOT / 'tools').glob('*.py'))
LEAVES = sorted(path for path in (ROOT / 'configs').glob('**/*.py') if '_base_' not in path.parts)

OPENMMLAB = {'mmcv', 'mmdet', 'mmaction', 'mmpretrain'}
TASK_PACKAGES = {'dynperceiver_cls', 'dynperceiver_det', 'dynperceiver_action'}
ALLOWED_IN_CORE = {  # folder or module of core -> what of core it may import; all may import registry, structures and version
    'registry': set(),
    'structures': set(),
    'compat': set(),
    'doctor': {'compat'},
    'layers': set(),
    'feature_branches': {'layers'},
    'models': {'layers', 'feature_branches'},
    'losses': set(),
    'metrics': set(),
    'data': set(),
    'optim': set(),
    'hooks': {'data', 'checkpoint', 'inference', 'analysis', 'metrics', 'models'},
    'checkpoint': {'feature_branches', 'models'},
    'inference': {'layers', 'models', 'analysis'},
    'analysis': {'models'},
    'export': {'models', 'inference', 'analysis'},
    'viz': {'analysis', 'inference', 'metrics', 'models'},
    'launch': {'checkpoint', 'compat', 'data', 'hooks', 'inference', 'models', 'registry'},
}
FOR_ALL_OF_CORE = {'registry', 'structures'}


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'))


def _module_of(path: Path) -> list[str]:
    """Dotted name of a source file of a package, as parts."""
    parts = list(path.with_suffix('').parts)
    parts = parts[parts.index('src') + 1 :]
    return parts[:-1] if parts[-1] == '__init__' else parts


def _imports(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, wherever in it, by statement or by importlib with a literal name."""
    package = _module_of(path)
    if path.name != '__init__.py':
        package = package[:-1]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = '.'.join([*base, *([node.module] if node.module else [])])
            yield from (f'{module}.{alias.name}' for alias in node.names)


def _literal_names(path: Path) -> list[str] | None:
    """``__all__`` of a file, or ``None``."""
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == '__all__' for target in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def _definitions(path: Path) -> dict[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name: node for node in _tree(path).body if isinstance(node, kinds)}


def test_there_is_something_to_check() -> None:
    assert len(CORE_SOURCES) > 20
    assert TOOLS
    assert LEAVES


def test_core_runs_wherever_torch_and_mmengine_do() -> None:
    forbidden = OPENMMLAB | TASK_PACKAGES | {'decord'}
    found = {_relative(path): {name.split('.')[0] for name in _imports(path)} & forbidden for path in CORE_SOURCES}
    assert not {path: names for path, names in found.items() if names}


def test_directions_within_core() -> None:
    wrong = []
    for path in CORE_SOURCES:
        parts = _module_of(path)
        if len(parts) == 1:  # the package itself, which gathers the parts
            continue
        part = parts[1]
        assert part in ALLOWED_IN_CORE, f'say in ALLOWED_IN_CORE what {part} may import'
        inner = [name.split('.') for name in _imports(path) if name.split('.')[0] == 'dynperceiver']
        imported = {names[1] for names in inner if len(names) > 1}
        wrong += [f'{_relative(path)} imports {name}' for name in imported - ALLOWED_IN_CORE[part] - FOR_ALL_OF_CORE - {part}]
    assert not wrong


def test_task_packages_never_import_each_other() -> None:
    for path in SOURCES:
        if path not in CORE_SOURCES:
            tops = {name.split('.')[0] for name in _imports(path)}
            assert tops & TASK_PACKAGES <= {_module_of(path)[0]}, _relative(path)


def test_directions_have_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(ALLOWED_IN_CORE):
        ready = {part for part, needs in ALLOWED_IN_CORE.items() if part not in done and needs <= done}
        assert ready, f'a circle among {set(ALLOWED_IN_CORE) - done}'
        done |= ready


def test_imports_are_found(tmp_path: Path) -> None:
    """The finder itself: every form of import statement."""
    folder = tmp_path / 'src' / 'dynperceiver' / 'models'
    folder.mkdir(parents=True)
    path = folder / 'x.py'
    path.write_text('import mmcv.ops\nfrom ..registry import MODELS\nfrom . import exits\ndef f():\n    from mmdet import a as b\n')
    assert list(_imports(path)) == ['mmcv.ops', 'dynperceiver.registry.MODELS', 'dynperceiver.models.exits', 'mmdet.a']
    init = folder / '__init__.py'
    init.write_text('from .exits import X\nfrom ..layers import Y\n')
    assert list(_imports(init)) == ['dynperceiver.models.exits.X', 'dynperceiver.layers.Y']


def _lines(path: Path) -> int:
    return len(path.read_text(encoding='utf-8').splitlines())


def test_files_are_short() -> None:
    tests = sorted((ROOT / 'tests').glob('**/*.py'))
    assert not [_relative(path) for path in [*SOURCES, *tests] if _lines(path) > 400]
    assert not [_relative(path) for path in TOOLS if _lines(path) > 120], 'tools parse, call and print'
    assert not [_relative(path) for path in LEAVES if _lines(path) > 30], 'configs outside _base_ say what is special about them'


def test_public_modules_say_what_is_public() -> None:
    wrong = []
    for path in [*SOURCES, *TOOLS]:
        names, definitions = _literal_names(path), _definitions(path)
        public = {name for name in definitions if not name.startswith('_')}
        if path not in TOOLS and not path.name.startswith('_') and names is None and public:
            wrong.append(f'{_relative(path)} has no __all__')
        if _tree(path).body and not ast.get_docstring(_tree(path)):
            wrong.append(f'{_relative(path)} does not say what it is')
        undocumented = [name for name in names or [] if name in definitions and not ast.get_docstring(definitions[name])]
        wrong += [f'{_relative(path)}: {name} has no docstring' for name in undocumented]
        if len(names or []) != len(set(names or [])):
            wrong.append(f'{_relative(path)} lists a name twice')
    assert not wrong


def test_public_names_exist() -> None:
    for path in SOURCES:
        bound = set(_definitions(path)) | {part.stem for part in path.parent.glob('*')}
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                bound |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                bound.add(node.id)
        assert set(_literal_names(path) or []) <= bound, _relative(path)


def test_weights_only_is_never_switched_off() -> None:
    """Checkpoints come from anywhere: what is not data is not loaded."""
    for path in [*SOURCES, *TOOLS, *(ROOT / 'configs').glob('**/*.py')]:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.keyword) and node.arg == 'weights_only':
                assert isinstance(node.value, ast.Constant) and node.value.value is True, f'{_relative(path)}:{node.value.lineno}'
        assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in path.read_text(encoding='utf-8'), _relative(path)


def test_nothing_is_evaluated() -> None:
    for path in [*SOURCES, *TOOLS]:
        calls = {node.func.id for node in ast.walk(_tree(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert not calls & {'eval', 'exec'}, _relative(path)
