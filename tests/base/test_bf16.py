"""Multiplying in bfloat16 where the processor does so natively, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from ex2.analysis.contribution import Similarity
from ex2.base import bf16
from ex2.data import load_images
from ex2.scoring.bank import build_bank
from ex2.scoring.scorer import TextScorer
from ex2.vlm import VLM


@pytest.fixture
def fast_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "cpu_has_bf16", lambda: True)


def product_dtype(device: str, exact: bool) -> torch.dtype:
    with bf16.fast_matmul(device, exact=exact):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_only_processors_that_have_it_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(bf16, "cpu_has_bf16", lambda has=has: has)
        assert product_dtype("cpu", exact=False) == expected


@pytest.mark.usefixtures("fast_processor")
def test_exact_and_other_devices_stay_in_float32() -> None:
    assert product_dtype("cpu", exact=True) == torch.float32
    assert product_dtype("meta", exact=False) == torch.float32


@pytest.mark.usefixtures("fast_processor")
def test_cosines_are_nearly_those_of_float32(pictogram_vlm: VLM) -> None:
    """The error of a cosine is that of rounding, far below what descriptions differ by, and has no direction."""
    bank = build_bank(pictogram_vlm, load_images("planted:habitat"), progress=False)
    texts = [f"The {name} lives in forest number {i}." for name in bank.class_names for i in range(4)]
    ids = [i for i in range(len(bank.class_names)) for _ in range(4)]
    scorer = TextScorer(pictogram_vlm, bank)
    exact = Similarity(scorer, exact=True).own(texts, ids)
    scorer = TextScorer(pictogram_vlm, bank)  # the other one remembers its latest batch
    difference = Similarity(scorer, exact=False).own(texts, ids) - exact
    assert 0 < abs(difference).max() < 0.01
    assert abs(difference.mean()) < 0.001
    assert exact.std() > 20 * difference.std()
