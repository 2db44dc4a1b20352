"""What an exported folder is told of the model around the network."""

from __future__ import annotations

from pathlib import Path

from core_models import narrow_model
from torch import nn

from dynperceiver.deployment import freeze
from dynperceiver.deployment.export import export, read_preprocessing
from dynperceiver.inference import OnnxRuntimeEngine
from dynperceiver_runtime import DynamicRunner


def test_a_served_folder_averages_views_as_the_model_did(tmp_path: Path) -> None:
    network = narrow_model(num_frames=2)
    model = nn.ModuleDict({'backbone': network})
    assert read_preprocessing(model) == {}
    model.average_views = 'prob'
    assert read_preprocessing(model) == {'average_views': 'prob'}
    export(freeze(network, (32, 32)), tmp_path / 'served', preprocessing=read_preprocessing(model))
    engine = OnnxRuntimeEngine(tmp_path / 'served')
    assert DynamicRunner(engine).average_views == engine.average_views == 'prob'
    assert DynamicRunner(engine, average_views='score').average_views == 'score'
