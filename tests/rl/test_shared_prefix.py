"""One packed row that has once what prompts share gives what padded rows give."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from ex2.rl import ppo_trainer
from ex2.rl.ppo_trainer import PPOTrainer, prompt_by_prompt
from ex2.rl.rollout import Texts
from ex2.rl.shared_prefix import by_prompt, packed, packing_saves, padded, shared_lengths

from .conftest import Counted, makes_the_host_wait

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
    arguments, states = packed(batch, shared_lengths(batch))
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


def test_the_host_waits_once_for_the_length_of_a_packed_row(texts_of: TextsOf) -> None:
    batch = texts_of(random_pairs(seed=0))
    with Counted(makes_the_host_wait) as waits:
        packed(batch, shared_lengths(batch))
    assert waits.count == 1


def test_packed_tree_by_hand(texts_of: TextsOf) -> None:
    """2 is common to all three prompts, 2 3 to the first and the last, which are the same."""
    batch = texts_of([([2, 3], [5, 6]), ([2, 4], [7, 8]), ([2, 3], [9, 6])])
    arguments, states = packed(batch, shared_lengths(batch))
    assert arguments["input_ids"].tolist() == [[2, 3, 5, 4, 7, 9]]
    assert arguments["position_ids"].tolist() == [[0, 1, 2, 1, 2, 2]]
    assert arguments["attention_mask"].int().tolist() == [[[
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],  # 4 sees the 2, not the 3 of another branch
        [1, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],  # 9 sees the whole prompt that the first row laid down, not that row's completion
    ]]]  # fmt: skip
    assert states(torch.arange(6.0).view(1, 6, 1)).squeeze(-1).tolist() == [[1, 2], [3, 4], [1, 5]]


def test_shared_lengths(texts_of: TextsOf) -> None:
    prompts = [[2, 3, 4], [2, 3, 5], [2, 3], [6, 3, 4], [2, 3, 4]]
    assert shared_lengths(texts_of([(prompt, [1]) for prompt in prompts])).tolist() == [
        [3, 2, 2, 0, 3],
        [2, 3, 2, 0, 2],
        [2, 2, 2, 0, 2],
        [0, 0, 0, 3, 0],
        [3, 2, 2, 0, 3],
    ]


def test_by_prompt_puts_prompts_that_begin_alike_side_by_side(texts_of: TextsOf) -> None:
    prompts = [[2, 3, 4], [5], [2, 9], [5], [2, 3, 4], [2, 3]]
    order = by_prompt(texts_of([(prompt, [1]) for prompt in prompts])).tolist()
    assert [prompts[i] for i in order] == [[2, 3], [2, 3, 4], [2, 3, 4], [2, 9], [5], [5]]
    assert order == [5, 0, 4, 2, 1, 3]  # equal prompts stay in order


def test_packing_saves(texts_of: TextsOf) -> None:
    """8 rows of 37 + 32 tokens, 26 of them alike: 552 tokens or 26 + 8 x (11 + 31) = 362, and 131,044 - 38,088 pairs more."""
    alike = texts_of([([2] * 26 + [3 + i] * 11, [4] * 32) for i in range(8)])
    assert packing_saves(alike, shared_lengths(alike), 576)  # 6 x 576 x 190 = 656,640
    assert packing_saves(alike, shared_lengths(alike), 82)  # 93,480 > 92,956
    assert not packing_saves(alike, shared_lengths(alike), 81)  # so narrow a model spends its time on pairs of tokens
    unlike = texts_of([([3 + i] * 37, [4] * 32) for i in range(8)])
    assert not packing_saves(unlike, shared_lengths(unlike), 576)


def random_pairs(seed: int) -> Pairs:
    """Up to eight prompts that begin alike, some of them wholly, or not, and completions of up to five tokens."""
    draw = random.Random(seed)

    def some(most: int) -> list[int]:
        return [draw.randrange(2, 10) for _ in range(draw.randint(1, most))]

    prompts = [some(4) if seed % 3 else []]
    for _ in range(3):
        prompts.append(draw.choice(prompts) + some(3))  # a branch of what is there
    return [(draw.choice(prompts) or [2], some(5)) for _ in range(draw.randint(1, 8))]


@pytest.mark.parametrize("seed", range(12))
def test_states_and_gradients_are_those_of_padded_rows(
    words_model: Callable[[], LlamaForCausalLM], seed: int, texts_of: TextsOf
) -> None:
    model = words_model().double()
    batch = texts_of(random_pairs(seed))
    weight = torch.randn(32, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    found = []
    for arguments, states in (padded(batch), packed(batch, shared_lengths(batch))):
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
        # Two rollouts of a policy and a reference pass and two updates.
        assert [rows for rows, _ in shapes] == ([1] * 8 if share else [8] * 8)
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
    assert {rows for rows, _ in shapes} == {8}


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


def test_an_update_goes_prompt_by_prompt() -> None:
    """Two updates of two micro-batches of two rows: rows of one prompt come together, and stay in their update."""
    prompts = [[2, 3], [4, 5], [2, 3], [4, 5], [6, 7], [2, 3], [6, 7], [2, 3]]
    batches = [
        {
            "prompt_ids": torch.tensor(prompts[i : i + 2]),
            "prompt_mask": torch.ones(2, 2, dtype=torch.long),
            "completion_ids": torch.tensor([[i], [i + 1]]),
            "completion_mask": torch.ones(2, 1, dtype=torch.long),
            "num_items_in_batch": torch.tensor(8),
        }
        for i in range(0, 8, 2)
    ]
    dealt = prompt_by_prompt(batches, 2)
    assert [batch["completion_ids"].flatten().tolist() for batch in dealt] == [[0, 2], [1, 3], [5, 7], [4, 6]]
    assert [batch["prompt_ids"].tolist() for batch in dealt][1] == [[4, 5], [4, 5]]
    assert all(batch["num_items_in_batch"] == 8 for batch in dealt)


def test_a_group_in_one_micro_batch_is_computed_once(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four prompts of five tokens, four texts each, in four micro-batches: each has one prompt and its four completions."""
    trainer = make_trainer(
        prompts=["a b c d e", "b c d e f", "c d e f g", "d e f g h"], num_generations=4, per_device_train_batch_size=4,
        gradient_accumulation_steps=4, max_completion_length=2,
    )  # fmt: skip
    trainer.generation_config.min_new_tokens = 2
    shapes = layouts(trainer, monkeypatch)
    trainer.train()
    assert shapes == [(1, 5 + 4 * 1)] * 12  # policy, reference and update; a last token is not needed


def sampled_gap(trainer: PPOTrainer) -> float:
    """Mean distance of the scored log-probs from those that `generate` sampled with, prompts padded on the left."""
    tokenizer = trainer.processing_class
    prompts = tokenizer(["a b c d e", "f", "g h"], padding=True, return_tensors="pt")
    generated = trainer.model.generate(
        **prompts, do_sample=False, min_new_tokens=4, max_new_tokens=4, output_logits=True, return_dict_in_generate=True
    )
    completion = generated.sequences[:, prompts["input_ids"].size(1) :]
    sampled = torch.stack(generated.logits, dim=1).log_softmax(-1).gather(2, completion.unsqueeze(2)).squeeze(2)
    texts = Texts(prompts["input_ids"], prompts["attention_mask"], completion, torch.ones_like(completion))
    with torch.no_grad():
        scored = trainer._score(trainer.model, texts).logps
    return (scored - sampled).abs().mean().item()


SMALL: dict[str, Any] = {"vocab_size": 10, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("model", "packs"),
    [
        (GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **SMALL)), True),
        (FalconForCausalLM(FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, **SMALL)), False),
        (BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, **SMALL)), False),
    ],
    ids=["learned positions", "ALiBi", "no positions taken"],
)  # fmt: skip
def test_texts_are_scored_at_the_positions_they_were_sampled_at(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, model: Any, packs: bool
) -> None:
    torch.manual_seed(0)
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.3)
    # GPT-2's layers hold their weights the other way round.
    adapter = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", fan_in_fan_out=packs)
    trainer = make_trainer(model=get_peft_model(model.eval(), adapter), prompts=SYSTEM)
    assert sampled_gap(trainer) < 1e-4  # rows apart, as nothing has been checked yet
    trainer._checked_prefix = True
    assert sampled_gap(trainer) < 1e-4
    trainer._checked_prefix = False
    shapes = layouts(trainer, monkeypatch)
    trainer.train()
    assert ({rows for rows, _ in shapes} == {1}) is packs


def test_the_check_packs_even_where_it_would_not_pay(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a backbone that packing is wrong for could pass on a first rollout that shares nothing."""

    def wrong(texts: Texts, alike: torch.Tensor) -> Any:
        arguments, states = packed(texts, alike)
        return arguments | {"position_ids": arguments["position_ids"] * 3}, states

    monkeypatch.setattr(ppo_trainer, "packing_saves", lambda *_: False)
    monkeypatch.setattr(ppo_trainer, "packed", wrong)
    trainer = make_trainer(prompts=["a b", "c d", "e f", "g h"] * 2)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "where prompts share the computation of their common prefix" in caplog.text
    assert not trainer._shares_prefix


@pytest.mark.parametrize(("only_packed", "shares"), [(False, True), (True, False)])
def test_a_change_counts_beyond_rounding(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, only_packed: bool, shares: bool
) -> None:
    """Log-probs that change by 0.01 nats wherever rows are laid out otherwise are coarse; where they are packed only, wrong."""
    trainer = make_trainer(prompts=SYSTEM)
    exact, draw = trainer._pass, torch.Generator().manual_seed(0)

    def coarse(model: Any, texts: Texts, arguments: Any, states: Any) -> Any:
        logps, *others = exact(model, texts, arguments, states)
        off = 0.0 if only_packed and len(arguments["input_ids"]) > 1 else 0.01
        return (logps + off * torch.randn(logps.shape, generator=draw), *others)

    monkeypatch.setattr(trainer, "_pass", coarse)
    trainer.train()
    assert trainer._shares_prefix is shares
