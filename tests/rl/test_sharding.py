"""Whole weights where nothing is sharded; tests/run/test_two_processes.py has FSDP2."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers.integrations import deepspeed

from ex2.rl.sharding import load_whole_weights, loading_whole, whole_weights


def test_only_what_is_trained_is_saved_and_comes_back() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    module[0].requires_grad_(False)
    saved = whole_weights(module)
    assert set(saved) == {"1.weight", "1.bias"}
    frozen = module[0].weight.clone()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert not torch.equal(module[1].weight, saved["1.weight"])  # a copy, not a view
    load_whole_weights(module, saved)
    assert torch.equal(module[1].weight, saved["1.weight"])
    assert torch.equal(module[0].weight, frozen + 1)


def test_models_are_loaded_whole_with_zero3(monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = SimpleNamespace(is_zero3=lambda: True)
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", lambda: config)
    assert deepspeed.is_deepspeed_zero3_enabled()

    @loading_whole()
    def load() -> None:
        assert not deepspeed.is_deepspeed_zero3_enabled()
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            load()
        assert deepspeed.is_deepspeed_zero3_enabled()
