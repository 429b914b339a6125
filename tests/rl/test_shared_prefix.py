"""One packed row with the prompts' common prefix once gives what padded rows give."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from ex2.rl.ppo_trainer import PPOTrainer
from ex2.rl.rollout import Texts
from ex2.rl.shared_prefix import common_prefix, packed, packing_saves, padded

MakeTrainer = Callable[..., PPOTrainer]
Pairs = list[tuple[list[int], list[int]]]
TextsOf = Callable[[Pairs], Texts]

SYSTEM = [
    "h h g a b",
    "h h g a c",
    "h h g a",
    "h h g a d e",
] * 2  # prompts that begin alike, one of them with nothing else


def test_packed_row_by_hand(texts_of: TextsOf) -> None:
    """Prompts 2 3 4 and 2 3, completions 5 6 and 7 8 9: the prefix is 2 3, and last tokens predict nothing."""
    batch = texts_of([([2, 3, 4], [5, 6]), ([2, 3], [7, 8, 9])])
    arguments, states = packed(batch, common_prefix(batch))
    assert arguments["input_ids"].tolist() == [[2, 3, 4, 5, 7, 8]]
    assert arguments["position_ids"].tolist() == [[0, 1, 2, 3, 2, 3]]
    assert arguments["attention_mask"].int().tolist() == [[[
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],  # 7 sees the prefix and itself, not the other row's 4 and 5
        [1, 1, 0, 0, 1, 1],
    ]]]  # fmt: skip
    before = states(torch.arange(6.0).view(1, 6, 1)).squeeze(-1)
    assert before[0, :2].tolist() == [2, 3]  # 5 follows 4, 6 follows 5
    assert before[1].tolist() == [1, 4, 5]  # 7 follows the prefix, which is all of that prompt


@pytest.mark.parametrize(
    ("prompts", "length"),
    [
        ([[2, 3, 4], [2, 3, 5], [2, 3, 4]], 2),
        ([[2, 3, 4]] * 3, 3),
        ([[2, 3], [2, 3, 4]], 2),
        ([[2, 3, 4], [5, 3, 4]], 0),
        ([[2, 3, 4]], 3),
    ],
)
def test_common_prefix(prompts: list[list[int]], length: int, texts_of: TextsOf) -> None:
    batch = texts_of([(prompt, [1]) for prompt in prompts])
    assert common_prefix(batch).item() == length


def test_packing_saves(texts_of: TextsOf) -> None:
    """8 rows of 37 + 32 tokens, 26 of them alike: 552 tokens or 26 + 8 x (11 + 31) = 362, and 131,044 - 38,088 pairs more."""
    alike = texts_of([([2] * 26 + [3 + i] * 11, [4] * 32) for i in range(8)])
    assert packing_saves(alike, common_prefix(alike), 576)  # 6 x 576 x 190 = 656,640
    assert packing_saves(alike, common_prefix(alike), 82)  # 93,480 > 92,956
    assert not packing_saves(alike, common_prefix(alike), 81)  # so narrow a model spends its time on pairs of tokens
    unlike = texts_of([([3 + i] * 37, [4] * 32) for i in range(8)])
    assert not packing_saves(unlike, common_prefix(unlike), 576)


def random_pairs(seed: int) -> Pairs:
    """Up to six prompts that begin alike, or not, and completions of up to five tokens."""
    draw = random.Random(seed)

    def some(most: int) -> list[int]:
        return [draw.randrange(2, 10) for _ in range(draw.randint(1, most))]

    prefix = some(4) if seed % 3 else []
    extra = [[*([] if seed % 2 and prefix else some(1)), *(some(3) if draw.random() < 0.5 else [])] for _ in range(6)]
    return [(prefix + (own or [2] * (not prefix)), some(5)) for own in extra[: draw.randint(1, 6)]]


@pytest.mark.parametrize("seed", range(12))
def test_states_and_gradients_are_those_of_padded_rows(
    words_model: Callable[[], LlamaForCausalLM], seed: int, texts_of: TextsOf
) -> None:
    model = words_model().double()
    batch = texts_of(random_pairs(seed))
    weight = torch.randn(32, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    found = []
    for arguments, states in (padded(batch), packed(batch, common_prefix(batch))):
        model.zero_grad()
        before = states(model.model(**arguments).last_hidden_state) * batch.completion_mask.unsqueeze(-1)
        (before @ weight).square().mean().backward()
        found.append([before.detach(), *(p.grad.clone() for p in model.model.parameters() if p.grad is not None)])
    assert len(found[0]) == 21  # the states, and every weight of the backbone
    for together, apart in zip(*found, strict=True):
        # Angles of rotary positions are computed in float32, and those of padded rows are counted from the padding.
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def layouts(trainer: PPOTrainer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Fills with the shape of the tokens of each forward pass that scores completions."""
    shapes: list[tuple[int, ...]] = []
    layout = trainer._layout

    def watched(texts: Texts) -> Any:
        arguments, states = layout(texts)
        shapes.append(tuple(arguments["input_ids"].shape))
        return arguments, states

    monkeypatch.setattr(trainer, "_layout", watched)
    return shapes


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_packs_and_learns_the_same(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    options: dict[str, Any] = {
        "prompts": SYSTEM,
        "optim": "sgd",
        "learning_rate": 0.5,
        "max_steps": 4,
        "num_iterations": 2,
    }
    trained = []
    for share in (True, False):
        trainer = make_trainer(share_prefix=share, gradient_checkpointing=checkpointing, **options)
        shapes = layouts(trainer, monkeypatch)
        torch.manual_seed(0)
        trainer.train()
        # Two rollouts of a policy and a reference pass and two updates; the first is besides scored in both ways.
        assert [rows for rows, _ in shapes] == ([1, 8] + [1] * 8 if share else [8] * 8)
        trained.append({name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad})
    for name, weights in trained[0].items():
        torch.testing.assert_close(weights, trained[1][name], atol=1e-5, rtol=1e-4)


def test_a_micro_batch_that_shares_nothing_is_padded(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(prompts=["a b", "c d", "e f", "g h"] * 2, max_completion_length=40)
    trainer.generation_config.min_new_tokens = 40  # no padding either
    shapes = layouts(trainer, monkeypatch)
    trainer.train()
    assert {rows for rows, _ in shapes} == {8}


def test_a_backbone_that_looks_at_neighbours_shares_nothing(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """LFM2's convolutions run over the packed row whatever the mask says."""
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=10, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention"], max_position_embeddings=64, initializer_range=0.5,
        bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    adapter = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    trainer = make_trainer(model=get_peft_model(Lfm2ForCausalLM(config), adapter), prompts=SYSTEM)
    shapes = layouts(trainer, monkeypatch)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "where prompts share the computation of their common prefix" in caplog.text
    assert [rows for rows, _ in shapes] == [1, 8, 8, 8, 8]


@pytest.mark.parametrize(("window", "rows"), [(4, 8), (64, 1)])
def test_a_sliding_window_stays_a_window(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, window: int, rows: int
) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=10, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=window, max_position_embeddings=64, bos_token_id=None, eos_token_id=1,
        pad_token_id=0,
    )  # fmt: skip
    adapter = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    trainer = make_trainer(model=get_peft_model(MistralForCausalLM(config), adapter), prompts=SYSTEM)
    shapes = layouts(trainer, monkeypatch)
    trainer.train()
    assert shapes[-1][0] == rows


def test_dropout_is_drawn_for_each_text(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(prompts=SYSTEM, disable_dropout=False)
    shapes = layouts(trainer, monkeypatch)
    trainer.train()
    assert {rows for rows, _ in shapes} == {8}
