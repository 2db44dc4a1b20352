"""What runs on a CPU runs alike on a GPU: the runner, and a training step in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from core_models import narrow_model
from dynamic_runs import full_logits, make_images, spread_policy

from dynperceiver.inference import DynamicRunner
from dynperceiver.losses import MultiExitLoss

each_device = pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])
each_branch = pytest.mark.parametrize('name', ['resnet18', 'regnet_y_400mf', 'mobilenet_v3_large'])


@pytest.fixture(autouse=True)
def _single_precision() -> Iterator[None]:
    """Let no GPU round products of float32 to ten bits meanwhile."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@each_device
@each_branch
def test_runner_answers_as_the_network_does_on_the_cpu(name: str, device: str) -> None:
    """Thresholds stand in the middle between two samples' scores, which devices round differently."""
    model, images = narrow_model(name, dtype=torch.float32), make_images(16).float()
    logits_ESK = full_logits(model, images)
    policy = spread_policy(logits_ESK, between=True)
    exit_S, score_S = policy.replay(logits_ESK)
    assert len(set(exit_S.tolist())) == 4
    result = DynamicRunner(model.to(device), policy)(images.to(device))
    assert result.logits.device.type == device
    assert result.exit_index.tolist() == exit_S.tolist()
    np.testing.assert_allclose(result.logits.cpu(), logits_ESK[exit_S, np.arange(16)], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(result.confidence.cpu(), score_S, rtol=1e-3, atol=1e-3)


@each_device
@each_branch
def test_a_training_step_in_bfloat16(name: str, device: str) -> None:
    """The loss is that of float32 within what eight bits of mantissa allow, and every weight gets a finite gradient."""
    model = narrow_model(name, dtype=torch.float32).train()
    images, labels = make_images(8).float(), torch.arange(8) % 5
    expected = sum(MultiExitLoss()(model(images), labels).values()).item()
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.autocast(device, torch.bfloat16):
        logits = model(images.to(device))
        loss = sum(MultiExitLoss()(logits, labels.to(device)).values())
    assert {exit_SK.dtype for exit_SK in logits} == {torch.bfloat16} and loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=0.05)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    optimizer.step()
    assert not [1 for parameter, old in zip(model.parameters(), before, strict=True) if old.numel() > 1 and torch.equal(parameter, old)]
