"""Rules of errors and files, which hold for every source; they read the sources and import only the base classes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ROOT / 'packages'
SOURCES = sorted(PACKAGES.glob('*/src/**/*.py'))
BARE = {'build_mmcv', 'mmcv_wheel', 'setup_env'}  # tools that run before anything is installed
TOOLS = [path for path in sorted((ROOT / 'tools').glob('*.py')) if path.stem not in BARE]

# Python's own exceptions are for faults of the program: wrong calls by code, and broken promises of code that others may write (a feature
# branch, a task). All other errors are a UserError. Here are the modules that raise a plain ValueError for such faults.
PLAIN_VALUE_ERRORS = {
    'dynperceiver_action.demo.clips',  # caught where it is called
    'dynperceiver.calibration.held_out_data',  # caught there
    'dynperceiver_runtime.policy.policy_file',  # caught there; and arrays that the code names
    'dynperceiver.feature_branches.base',  # of those who write a branch, like the next two
    'dynperceiver.feature_branches.build',
    'dynperceiver.feature_branches.variants',
    'dynperceiver.launch.tasks',  # of those who write a task
    'dynperceiver.models.segment_parts',  # of those who write a network
    # arrays, states and names that code passes to code
    'dynperceiver.benchmark.speed',
    'dynperceiver.benchmark.timing',
    'dynperceiver.calibration.exit_fractions',
    'dynperceiver.calibration.held_out_scores',
    'dynperceiver.launch.answers',
    'dynperceiver.layers.recording',
    'dynperceiver.models.dyn_perceiver',
    'dynperceiver.structures',
    'dynperceiver.viz.attention',
    'dynperceiver.viz.tradeoff',
    'dynperceiver_cls.models.classifier',
    'dynperceiver_runtime.policy.exit_policy',
    'dynperceiver_runtime.policy.exit_rule',
    'dynperceiver_runtime.policy.scores',
}
NEVER_PLAIN = {'FileNotFoundError', 'FileExistsError', 'PermissionError', 'OSError', 'IOError', 'RuntimeError', 'ImportError', 'Exception'}
WRITERS = {  # what may write without dynperceiver_runtime.files: into a folder that gets its name when it is whole, or no file at all
    'dynperceiver_runtime.files',
    'dynperceiver_action.demo.clips',
    'dynperceiver_cls.demo.images',
    'dynperceiver.benchmark.memory',  # /proc
    'dynperceiver.deployment.export.folder',
    'dynperceiver.deployment.export.segments',
    'dynperceiver.doctor',
    'dynperceiver.grafting.cached_maps',  # empty files that take their space, whose index says what they hold
    'demo',  # a log, while it grows
}


def _name(path: Path) -> str:
    parts = path.with_suffix('').parts
    return '.'.join(parts[parts.index('src') + 1 :]) if 'src' in parts else path.stem


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'))


def _raised(path: Path) -> Iterator[tuple[str, int]]:
    """Names of the exceptions that a file raises, and the lines."""
    for node in ast.walk(_tree(path)):
        error = node.exc if isinstance(node, ast.Raise) else None
        error = error.func if isinstance(error, ast.Call) else error
        if isinstance(error, ast.Name):
            yield error.id, error.lineno


def test_plain_exceptions_are_for_faults_of_the_program() -> None:
    found = {_name(path) for path in [*SOURCES, *TOOLS] for name, _ in _raised(path) if name == 'ValueError'}
    assert found <= PLAIN_VALUE_ERRORS, 'let them raise dynperceiver_runtime.UserError, or say here why their errors are no user\'s to mend'
    assert found == PLAIN_VALUE_ERRORS, 'these raise no ValueError any more'


def test_files_and_packages_that_are_missing_are_a_users_to_mend() -> None:
    wrong = [f'{_name(path)}:{line} {name}' for path in [*SOURCES, *TOOLS] for name, line in _raised(path) if name in NEVER_PLAIN]
    assert [text.split(':')[0] for text in wrong] == ['dynperceiver.__init__'], wrong  # which says so where nothing can be imported


def test_errors_of_ours_are_made_from_their_message_alone() -> None:
    """MMEngine's registries and PyTorch's data loaders make them anew, by ``type(error)(text)``."""
    classes = {node.name: node for path in SOURCES for node in ast.walk(_tree(path)) if isinstance(node, ast.ClassDef)}
    ours = {'UserError'}
    while True:
        more = {name for name, node in classes.items() if {base.id for base in node.bases if isinstance(base, ast.Name)} & ours}
        if more <= ours:
            break
        ours |= more
    assert {'CheckpointError', 'DatasetError', 'BadSampleError', 'PolicyError', 'EngineError', 'UsageError', 'ExportError'} < ours
    methods = {name: {part.name for part in classes[name].body if isinstance(part, ast.FunctionDef)} for name in ours}
    assert not {name: found for name, found in methods.items() if found & {'__init__', '__new__'}}
    others = {name for name, node in classes.items() if name.endswith('Error') and name not in ours}
    assert not others, 'every error of ours is a UserError; faults of the program are of Python\'s own classes'


def _writes(path: Path) -> Iterator[int]:
    for node in ast.walk(_tree(path)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
        owner = node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) else ''
        place = 1 if isinstance(node.func, ast.Name) else 0  # of the mode: open(path, mode), path.open(mode)
        modes = [*node.args[place : place + 1], *(keyword.value for keyword in node.keywords if keyword.arg == 'mode')]
        texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
        opened = function == 'open' and any(re.fullmatch('[wax][bt+]*', text) for text in texts)
        moved = owner == 'os' and function in ('replace', 'rename')
        if opened or moved or function in ('write_text', 'write_bytes', 'imwrite') or (owner, function) == ('json', 'dump'):
            yield node.lineno


def test_files_are_written_in_one_place() -> None:
    wrong = [f'{_name(path)}:{line}' for path in [*SOURCES, *TOOLS] if _name(path) not in WRITERS for line in _writes(path)]
    assert not wrong, 'write them with dynperceiver_runtime.files'


def test_writing_is_found(tmp_path: Path) -> None:
    """The finder itself."""
    path = tmp_path / 'x.py'
    lines = ["open('a', 'w')", "p.open('wb')", "p.open(mode='x')", "p.write_text('')", 'os.replace(a, b)', 'json.dump(a, b)']
    path.write_text('\n'.join([*lines, "open('a')", "open('a', 'rb')", "a.replace('b', 'c')", 'json.dumps(a)']))
    assert list(_writes(path)) == [1, 2, 3, 4, 5, 6]


def test_messages_have_no_form() -> None:
    wrong = []
    for path in [*SOURCES, *TOOLS]:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r'\b(Rule|Remedy): ', node.value):
                wrong.append(f'{_name(path)}:{node.lineno}')
    assert not wrong, 'say in a sentence what was expected and what to try'
