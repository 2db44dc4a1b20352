"""Rules that keep the repository as its architecture document describes it; they read the sources and import nothing."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {  # import name -> folder, from the ground floor up
    'dynperceiver_runtime': 'runtime',
    'dynperceiver': 'core',
    'dynperceiver_cls': 'classification',
    'dynperceiver_det': 'detection',
    'dynperceiver_action': 'action',
}
SOURCES = sorted((ROOT / 'packages').glob('*/src/**/*.py'))
RUNTIME_SOURCES, CORE_SOURCES = (
    [path for path in SOURCES if path.is_relative_to(ROOT / 'packages' / PACKAGES[name] / 'src' / name)]
    for name in ('dynperceiver_runtime', 'dynperceiver')
)
TOOLS = sorted((ROOT / 'tools').glob('*.py'))
LEAVES = sorted(path for path in (ROOT / 'configs').glob('**/*.py') if '_base_' not in path.parts)

OPENMMLAB = {'mmcv', 'mmdet', 'mmaction', 'mmpretrain'}
TASK_PACKAGES = {'dynperceiver_cls', 'dynperceiver_det', 'dynperceiver_action'}
ALLOWED_BETWEEN_PACKAGES = {name: {'dynperceiver_runtime', 'dynperceiver', name} for name in TASK_PACKAGES} | {
    'dynperceiver_runtime': {'dynperceiver_runtime'},
    'dynperceiver': {'dynperceiver_runtime', 'dynperceiver'},
}
ENGINE_LIBRARIES = {'onnxruntime': {'sessions'}}  # library -> files of runtime's engines/ that may import it
ALLOWED_IN_RUNTIME = {  # folder or module of runtime -> what of runtime it may import
    'errors': set(),
    'command_line': {'errors'},
    'files': {'errors'},
    'policy': {'errors', 'files'},
    'engines': {'errors', 'policy'},
    'results': {'errors'},
    'segment_times': set(),
    'deadlines': {'segment_times'},
    'views': {'engines', 'errors'},
    'streams': {'engines', 'policy', 'results', 'segment_times'},
    'runner': {'deadlines', 'engines', 'errors', 'policy', 'results', 'segment_times', 'streams', 'views'},
}
ALLOWED_IN_CORE = {  # folder or module of core -> what of core it may import; all may import registry and structures
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
    'checkpoint': {'feature_branches', 'models'},
    'analysis': {'layers', 'models'},
    'deployment': {'layers', 'models', 'analysis'},
    'grafting': {'layers', 'feature_branches', 'models', 'losses', 'checkpoint'},
    'calibration': {'data', 'models', 'analysis', 'deployment'},
    'benchmark': {'layers', 'models', 'analysis', 'deployment', 'calibration'},
    'hooks': {'analysis', 'checkpoint', 'data', 'deployment', 'metrics', 'models'},
    'viz': {'calibration', 'metrics'},
    'launch': {'analysis', 'calibration', 'checkpoint', 'compat', 'data', 'deployment', 'grafting', 'hooks', 'metrics', 'models'},
    'inference': {'calibration', 'deployment'},
}
FOR_ALL_OF_CORE = {'registry', 'structures'}
DOTTED = re.compile(r'(?<![\w./-])dynperceiver(?:_\w+)?(?:\.[A-Za-z_]\w*)+')


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


@cache
def _docstrings(path: Path) -> frozenset[int]:
    """Identities of the nodes that are docstrings, or the texts that describe attributes."""
    found = set()
    for node in ast.walk(_tree(path)):
        body = getattr(node, 'body', None)
        for child in body if isinstance(body, list) else ():
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
                found.add(id(child.value))
    return frozenset(found)


def _strings(path: Path) -> list[ast.Constant]:
    """Strings of a file that are no docstrings, those in f-strings included."""
    return [
        node
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in _docstrings(path)
    ]


def _names_in_strings(path: Path) -> list[str]:
    """Strings that are dotted names of modules of ours and nothing else, as importlib takes them."""
    dotted = (node.value.replace(':', '.') for node in _strings(path))
    return [name for name in dotted if DOTTED.fullmatch(name) and _file_of(name, exactly=False) is not None and _is_module(name)]


def _is_module(name: str) -> bool:
    """Whether a dotted name is that of a module of ours, or of what a submodule defines; ``dynperceiver.NAME`` may be a registered type."""
    parts = name.split('.')
    return len(parts) > 1 and _module_file(parts[:2]) is not None


def _module_file(parts: list[str]) -> Path | None:
    """File of the module with this dotted name."""
    if parts[0] not in PACKAGES:
        return None
    base = (ROOT / 'packages' / PACKAGES[parts[0]] / 'src').joinpath(*parts)
    return next((path for path in (base.with_suffix('.py'), base / '__init__.py') if path.is_file()), None)


def _file_of(name: str, exactly: bool = True) -> Path | None:
    """File of the module that a dotted name is of: its own, or that of what it is a name in; ``None`` if it is not of ours."""
    parts = name.split('.')
    for count in range(len(parts), 0 if not exactly else max(0, len(parts) - 2), -1):
        path = _module_file(parts[:count])
        if path is not None:
            return path
    return None


@cache
def _bound(path: Path) -> frozenset[str]:
    """All names that a file defines, imports or stores, in classes, too."""
    names = {part.stem for part in path.parent.glob('*')} if path.name == '__init__.py' else set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
    return frozenset(names)


@cache
def _registered() -> frozenset[str]:
    """Names under which configs find things: classes and functions of all packages, and names given to registries."""
    names = {name for path in SOURCES for name in _definitions(path)}
    for path in SOURCES:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.keyword) and node.arg == 'name' and isinstance(node.value, ast.Constant):
                names.add(str(node.value.value))
    return frozenset(names)


def _exists(name: str) -> bool:
    """Whether a dotted name is a module, a name in one, a method or attribute of such, or a registered type."""
    parts = name.split('.')
    if len(parts) == 2 and (parts[1] in _registered() or parts[1] in {'json', 'md', 'py', 'toml'}):
        return True
    for count in range(len(parts), 0, -1):
        path = _module_file(parts[:count])
        if path is not None:
            rest = parts[count:]
            return not rest or (rest[0] in _bound(path) and all(any(part in _bound(one) for one in SOURCES) for part in rest[1:]))
    return False


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


def test_runtime_needs_numpy_alone() -> None:
    known = {'numpy', 'dynperceiver_runtime', *sys.stdlib_module_names}
    wrong = []
    for path in RUNTIME_SOURCES:
        for top in {name.split('.')[0] for name in _imports(path)} - known:
            if not (path.parent.name == 'engines' and path.stem in ENGINE_LIBRARIES.get(top, ())):
                wrong.append(f'{_relative(path)} imports {top}')
    assert not wrong


def test_packages_import_downwards() -> None:
    wrong = []
    for path in SOURCES:
        own = _module_of(path)[0]
        tops = {name.split('.')[0] for name in [*_imports(path), *_names_in_strings(path)]} & set(PACKAGES)
        wrong += [f'{_relative(path)} uses {top}' for top in tops - ALLOWED_BETWEEN_PACKAGES[own]]
    assert not wrong


def _parts_used(path: Path, package: str) -> set[str]:
    """Folders and modules of a package that a file of it imports, or names in a string."""
    names = [name.split('.') for name in [*_imports(path), *_names_in_strings(path)]]
    return {parts[1] for parts in names if parts[0] == package and len(parts) > 1}


@pytest.mark.parametrize(
    ('package', 'sources', 'allowed', 'for_all'),
    [
        ('dynperceiver_runtime', RUNTIME_SOURCES, ALLOWED_IN_RUNTIME, set()),
        ('dynperceiver', CORE_SOURCES, ALLOWED_IN_CORE, FOR_ALL_OF_CORE),
    ],
)
def test_directions_within_a_package(package: str, sources: list[Path], allowed: dict[str, set[str]], for_all: set[str]) -> None:
    wrong = []
    for path in sources:
        parts = _module_of(path)
        if len(parts) == 1:  # the package itself, which gathers the parts
            continue
        assert parts[1] in allowed, f'say what {parts[1]} of {package} may import'
        used = {part for part in _parts_used(path, package) if part in allowed}
        wrong += [f'{_relative(path)} uses {part}' for part in used - allowed[parts[1]] - for_all - {parts[1]}]
    assert not wrong


@pytest.mark.parametrize('allowed', [ALLOWED_IN_RUNTIME, ALLOWED_IN_CORE], ids=['runtime', 'core'])
def test_directions_have_no_circle(allowed: dict[str, set[str]]) -> None:
    done: set[str] = set()
    while len(done) < len(allowed):
        ready = {part for part, needs in allowed.items() if part not in done and needs <= done}
        assert ready, f'a circle among {set(allowed) - done}'
        done |= ready


def test_files_have_no_circle() -> None:
    """No file imports itself by way of others; a package's __init__ counts as imported where a name of it is."""
    graph = {path: {target for name in _imports(path) if (target := _file_of(name)) not in (None, path)} for path in SOURCES}
    done: set[Path] = set()
    while len(done) < len(graph):
        ready = {path for path, needs in graph.items() if path not in done and needs <= done}
        assert ready, f'a circle among {sorted(map(_relative, set(graph) - done))}'
        done |= ready


def test_what_core_says_names_no_task() -> None:
    """What core knows of a task, the task's package tells it; so core's strings name none of them (docstrings may)."""
    names = re.compile(rf'\b(?:{"|".join(sorted(OPENMMLAB | TASK_PACKAGES))})\b')
    wrong = [
        f'{_relative(path)}:{node.lineno} {node.value[:60]!r}'
        for path in CORE_SOURCES
        if path.stem != 'doctor'  # it looks at what is installed
        for node in _strings(path)
        if names.search(node.value)
    ]
    assert not wrong


def test_names_in_texts_exist() -> None:
    """Dotted names of ours, in strings, docstrings and documents alike, are those of modules, or of what these define or import."""
    wrong = []
    for path in [*SOURCES, *TOOLS]:
        texts = [node.value for node in ast.walk(_tree(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        wrong += [f'{_relative(path)}: {name}' for text in texts for name in DOTTED.findall(text) if not _exists(name)]
    for page in [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('configs/*/README.md')]:
        names = DOTTED.findall(page.read_text(encoding='utf-8'))
        wrong += [f'{_relative(page)}: {name}' for name in names if not _exists(name)]
    assert not wrong


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
