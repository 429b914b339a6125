"""What a decoder samples is what `generate` samples; what it cannot do is left to that."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from ex2.rl.decoding import Decoder, decoding, draw, unfit
from tests.rl.conftest import MakeTrainer, lora

TOKENS = 6

pytestmark = pytest.mark.usefixtures("one_way_to_draw")


@pytest.fixture(scope="module")
def policy(words_model: Callable[[], LlamaForCausalLM]) -> Any:
    """A model with an adapter that changes what it says."""
    torch.manual_seed(2)
    return get_peft_model(words_model(), lora(init_lora_weights=False)).eval()


def prompts(*rows: list[int]) -> dict[str, torch.Tensor]:
    """Rows of tokens, padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def settings_of(**options: Any) -> GenerationConfig:
    usual = {
        "do_sample": True,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": TOKENS,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    return GenerationConfig(**usual | options)


def both(model: Any, rows: dict[str, torch.Tensor], config: GenerationConfig, seed: int = 0) -> list[torch.Tensor]:
    """What `generate` and a decoder return with equal seeds."""
    found = []
    for sample in (model.generate, Decoder(model)):
        torch.manual_seed(seed)
        found.append(sample(**rows, generation_config=config))
    return found


# ---------------------------------------------------------------- the same texts

ROWS = st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=7), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, copies=st.integers(1, 3), temperature=st.sampled_from([0.5, 1.0, 2.0]), seed=st.integers(0, 99))
def test_equal_seeds_give_the_texts_of_generate(
    policy: Any, rows: list[list[int]], copies: int, temperature: float, seed: int
) -> None:
    expected, found = both(policy, prompts(*rows * copies), settings_of(temperature=temperature), seed)
    assert torch.equal(found, expected)


def test_the_most_likely_token_where_nothing_is_sampled(policy: Any) -> None:
    expected, found = both(policy, prompts([2, 3], [4], [5, 6, 7]), settings_of(do_sample=False))
    assert torch.equal(found, expected)


def test_calls_of_other_shapes_and_weights_that_have_moved(policy: Any) -> None:
    """A decoder keeps its memory from one rollout to the next, but nothing of what was in it."""
    decoder, config = Decoder(policy), settings_of()
    weight = next(p for name, p in policy.named_parameters() if "lora_B" in name)
    for rows in ([[2, 3], [4]], [[5], [6, 7]], [[8]] * 3):
        with torch.no_grad():
            weight.add_(0.5)
        torch.manual_seed(3)
        expected = policy.generate(**prompts(*rows), generation_config=config)
        torch.manual_seed(3)
        assert torch.equal(decoder(**prompts(*rows), generation_config=config), expected)


def test_one_layout_of_memory_serves_prompts_of_about_the_same_width(policy: Any) -> None:
    decoder = Decoder(policy)
    decoder(**prompts([2, 3], [4]), generation_config=settings_of())
    memory = decoder._memory
    decoder(**prompts([5, 6, 7], [4]), generation_config=settings_of())
    assert decoder._memory is memory


def test_what_stands_in_several_rows_is_taken_in_once(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    forward = policy.forward

    def counted(*args: Any, **arguments: Any) -> Any:
        rows.append(len(arguments["input_ids"]))
        return forward(*args, **arguments)

    monkeypatch.setattr(policy, "forward", counted)
    Decoder(policy)(**prompts([2, 3], [4], [2, 3], [2, 3]), generation_config=settings_of(eos_token_id=None))
    assert rows == [2, *[4] * (TOKENS - 1)]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
        ("qwen3", {"head_dim": 8}),
        ("gemma3_text", {"head_dim": 8, "sliding_window": 32}),
        ("phi3", {"pad_token_id": 0}),
        ("mistral", {"sliding_window": 48}),
    ],
)
def test_families_of_models(kind: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    usual = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
    config = AutoConfig.for_model(kind, vocab_size=10, eos_token_id=1, bos_token_id=1, **usual | options)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert unfit(model) is None
    decoder = Decoder(model)
    torch.manual_seed(0)
    found = decoder(**prompts([2, 3], [4, 5, 6]), generation_config=settings_of())
    assert decoder._memory is not None
    torch.manual_seed(0)
    assert torch.equal(found, model.generate(**prompts([2, 3], [4, 5, 6]), generation_config=settings_of()))


# ---------------------------------------------------------------- what is left to `generate`


def calls(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each call of the model's own `generate`."""
    noted: list[str] = []
    generate = model.generate

    def counted(*args: Any, **arguments: Any) -> Any:
        noted.append("generate")
        return generate(*args, **arguments)

    monkeypatch.setattr(model, "generate", counted)
    return noted


@pytest.mark.parametrize(
    "options",
    [{"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}, {"repetition_penalty": 1.2}, {"num_beams": 2, "do_sample": False}],
)
def test_other_ways_of_sampling(policy: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    noted = calls(policy, monkeypatch)
    expected, found = both(policy, prompts([2, 3], [4]), settings_of(**options))
    assert noted == ["generate", "generate"]
    assert torch.equal(found, expected)


def test_a_setting_of_the_model_that_the_generation_leaves_open(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = calls(policy, monkeypatch)
    monkeypatch.setattr(policy.generation_config, "repetition_penalty", 1.5)
    Decoder(policy)(**prompts([2]), generation_config=settings_of())
    Decoder(policy)(**prompts([2]), generation_config=settings_of(repetition_penalty=1.0))
    assert noted == ["generate"]


def test_texts_longer_than_a_sliding_window(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = calls(policy, monkeypatch)
    monkeypatch.setattr(policy.config, "sliding_window", TOKENS + 2, raising=False)
    Decoder(policy)(**prompts([2]), generation_config=settings_of())
    assert noted == []
    Decoder(policy)(**prompts([2, 3, 4]), generation_config=settings_of())
    assert noted == ["generate"]


def test_models_that_count_positions_for_themselves() -> None:
    model = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=10, hidden_size=32, n_layer=2, n_head=4)).eval()
    assert unfit(model) == "it does not take masks of tokens by tokens, or positions"
    expected, found = both(model, prompts([2, 3], [4]), settings_of())
    assert torch.equal(found, expected)


def test_quantised_models(words_model: Callable[[], Any]) -> None:
    model = words_model()
    assert unfit(model) is None
    model.is_quantized = True
    assert unfit(model) == "its layers are quantised"


# ---------------------------------------------------------------- checks


def test_what_a_device_does_otherwise_is_seen_and_left_to_generate(
    policy: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows, config = prompts([2, 3], [4, 5, 6]), settings_of()
    decoder = Decoder(policy)
    decoder._checked = False  # as on a GPU
    decoder(**rows, generation_config=config)
    assert decoder.problem is None
    assert decoder._checked

    def forgetful(memory: Any, token: torch.Tensor) -> torch.Tensor:
        memory.sees[:, 0, 0, :-2] = False
        return step(memory, token)

    step = type(decoder._memory).step
    monkeypatch.setattr(type(decoder._memory), "step", forgetful)
    decoder = Decoder(policy)
    decoder._checked = False
    torch.manual_seed(0)
    expected = policy.generate(**rows, generation_config=config)
    with caplog.at_level(logging.WARNING):
        found = decoder(**rows, generation_config=config)
    assert "Texts are sampled by `generate`, which is slower: log-probs of sampled tokens are" in caplog.text
    assert found.shape[0] == expected.shape[0]
    assert decoder.problem is not None


def test_generate_is_what_it_was_afterwards(policy: Any) -> None:
    own = policy.generate
    with decoding(policy, Decoder(policy)):
        assert isinstance(policy.generate, Decoder)
    assert policy.generate == own


# ---------------------------------------------------------------- drawing tokens


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.125, 0.375, 0.0])
    n = 40_000
    torch.manual_seed(0)
    counts = torch.bincount(draw(probabilities.expand(n, -1)), minlength=6) / n
    standard_error = (probabilities * (1 - probabilities) / n).sqrt()
    assert ((counts - probabilities).abs() <= 4 * standard_error).all()  # what is impossible never comes


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_the_ends_of_the_random_numbers_are_tokens_that_can_come(
    number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "rand_like", lambda like: torch.full_like(like, number))
    drawn = draw(torch.tensor([[0.0, 0.3, 0.7, 0.0], [0.0, 0.0, 1.0, 0.0]]))
    assert drawn.tolist() == ([2, 2] if number == 0 else [1, 2])


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_probabilities_that_are_not_finite_are_said(odd: float) -> None:
    with pytest.raises(RuntimeError, match="probability tensor contains either `inf`, `nan`"):
        draw(torch.tensor([[0.5, 0.5], [odd, 0.5]]))


def test_trainers_sample_with_it(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.train()
    assert trainer._decoder is not None
    assert trainer._decoder._memory is not None
    assert trainer._decoder.model is trainer.model
