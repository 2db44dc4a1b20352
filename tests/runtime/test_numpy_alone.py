"""A serving machine needs NumPy alone: everything in the runtime imports without the libraries of training and of engines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dynperceiver_runtime

SCRIPT = """
import sys
ABSENT = {'dynperceiver', 'mmcv', 'mmengine', 'onnx', 'onnxruntime', 'torch', 'torchvision'}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ABSENT:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Absent())
import importlib, pkgutil
import numpy as np
import dynperceiver_runtime as runtime
names = [module.name for module in pkgutil.walk_packages(runtime.__path__, 'dynperceiver_runtime.')]
for name in names:
    importlib.import_module(name)
policy = runtime.ExitPolicy((0.8,))
policy.save(sys.argv[1])
logits = np.array([[[4.0, 0], [1, 0]]] * 2, np.float32)
print(len(names), runtime.ExitPolicy.load(sys.argv[1]).replay(logits)[0].tolist())
"""


def test_every_module_imports_with_numpy_alone(tmp_path: Path) -> None:
    command = [sys.executable, '-c', SCRIPT, str(tmp_path / 'policy.json')]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    package = Path(dynperceiver_runtime.__file__).parent
    num_modules = sum(1 for path in package.rglob('*.py')) - 1  # the package itself
    assert done.stdout == f'{num_modules} [0, 1]\n'
