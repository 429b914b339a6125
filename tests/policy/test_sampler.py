"""Sampling from a policy: batches, seeds, and settings that are the policy's alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ex2.base.errors import UserError
from ex2.policy.asks import Ask
from ex2.policy.sampler import rng_devices
from ex2.policy.source import load_generator
from ex2.texts.questions import QUESTION_SETS

ASKS = [Ask(i, name, "Describe a {}.") for i, name in enumerate(("puffin", "tiger", "hammer", "cat", "axe"))]


def test_equal_seeds_give_equal_texts_and_leave_no_trace(tiny_llm: Path) -> None:
    generator, questions = load_generator(str(tiny_llm), overrides={"max_completion_length": 6})
    assert questions == QUESTION_SETS["study"]
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = [text for batch in generator.sample(ASKS, seed=3, batch_size=2) for text in batch]
    assert torch.equal(torch.rand(1), expected)
    assert first == [text for batch in generator.sample(ASKS, seed=3, batch_size=2) for text in batch]
    assert first != [text for batch in generator.sample(ASKS, seed=30, batch_size=2) for text in batch]
    assert len(first) == len(ASKS)
    assert all(text == " ".join(text.split()) for text in first)


def test_only_the_random_state_of_its_own_device_is_touched(tiny_llm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forked: list[object] = []

    @contextmanager
    def fork_rng(devices: object = None) -> Iterator[None]:
        forked.append(devices)
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    generator, _ = load_generator(str(tiny_llm), overrides={"max_completion_length": 2})
    list(generator.sample(ASKS[:1], seed=0))
    assert forked == [[]]
    assert rng_devices(torch.device("cuda", 1)) == [torch.device("cuda", 1)]


def test_a_batch_does_not_depend_on_the_ones_before(tiny_llm: Path) -> None:
    generator, _ = load_generator(str(tiny_llm), overrides={"max_completion_length": 6})
    batches = list(generator.sample(ASKS, seed=3, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert next(generator.sample(ASKS[2:4], seed=4, batch_size=2)) == batches[1]


def test_texts_are_no_longer_than_asked_for(tiny_llm: Path) -> None:
    generator, _ = load_generator(str(tiny_llm), overrides={"max_completion_length": 3})
    texts = [text for batch in generator.sample(ASKS, seed=0) for text in batch]
    assert max(len(generator.tokenizer(text)["input_ids"]) for text in texts) <= 3 * 4  # bytes that are no text grow


def test_low_temperatures_sample_the_likeliest_text(tiny_llm: Path) -> None:
    generator, _ = load_generator(str(tiny_llm), overrides={"max_completion_length": 5, "temperature": 1e-4})
    assert generator.temperature == 1e-4
    assert list(generator.sample(ASKS, seed=0)) == list(generator.sample(ASKS, seed=1))


def test_the_models_own_generation_settings_do_not_bend_the_samples(tiny_llm: Path) -> None:
    generator, _ = load_generator(str(tiny_llm), overrides={"max_completion_length": 6})
    expected = list(generator.sample(ASKS, seed=3))
    own = generator.model.generation_config
    own.repetition_penalty, own.min_p, own.top_k, own.temperature = 50.0, 0.9, 1, 0.01
    assert list(generator.sample(ASKS, seed=3)) == expected
    assert generator.model.generation_config is own


def test_chat_models_get_chat_prompts(tiny_chat_llm: Path, tiny_llm: Path) -> None:
    chat, _ = load_generator(str(tiny_chat_llm), overrides={"system_prompt": "Be brief."})
    prompt = chat.tokenizer.decode(chat._tokenize(ASKS[:1])["input_ids"][0])
    assert prompt == "<|system|>Be brief.<|end|><|user|>Describe a puffin.<|end|><|assistant|>"
    plain, _ = load_generator(str(tiny_chat_llm), overrides={"prompt_format": "plain"})
    assert plain.tokenizer.decode(plain._tokenize(ASKS[:1])["input_ids"][0]) == "Describe a puffin.\n\n"
    padded = chat._tokenize(ASKS[:2])
    assert padded["attention_mask"][:, -1].tolist() == [1, 1]  # padding is on the left
    with pytest.raises(UserError, match="use prompt_format=plain"):
        load_generator(str(tiny_llm), overrides={"prompt_format": "chat"})


def test_the_models_mode_is_restored(tiny_llm: Path) -> None:
    generator, _ = load_generator(str(tiny_llm))
    for training in (True, False):
        generator.model.train(training)
        next(generator.sample(ASKS[:1], seed=0))
        assert generator.model.training is training


def test_an_opening_stays_open_and_is_part_of_the_text(tiny_chat_llm: Path) -> None:
    generator, _ = load_generator(str(tiny_chat_llm), overrides={"max_completion_length": 4})
    asked, opened = (Ask(0, "owl", question) for question in ("What is a {}?", "What is a {}? -> An {} is"))
    prompts = [generator.tokenizer.decode(generator._tokenize([ask])["input_ids"][0]) for ask in (asked, opened)]
    assert "What is an owl?" in prompts[0]
    assert prompts[1] == prompts[0] + "An owl is"  # no end of turn behind it
    (texts,) = generator.sample([opened], seed=0)
    assert texts[0].startswith("An owl is")
    assert len(texts[0]) > len("An owl is")


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (
            RuntimeError("probability tensor contains either `inf`, `nan` or element < 0"),
            "probabilities are not finite",
        ),
        (IndexError("index 9 is out of range"), "IndexError: index 9 is out of range"),
    ],
)
def test_a_model_that_cannot_be_sampled_from_is_named(
    raised: Exception, told: str, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("ex2.policy.sampler.Decoder", lambda *_, **__: fails)
    generator, _ = load_generator(str(tiny_llm))
    with pytest.raises(UserError, match=rf"{tiny_llm.name}.* cannot be sampled from: .*{told}. Are its files whole\?"):
        list(generator.sample(ASKS[:1], seed=0))


def test_an_end_that_is_no_token(tiny_llm: Path) -> None:
    generator, _ = load_generator(str(tiny_llm))
    generator.model.generation_config.eos_token_id = 1e308
    with pytest.raises(UserError, match=r": eos_token_id=\[1e\+308\] in generation_config.json is no token\.$"):
        next(generator.sample(ASKS[:1], seed=0))


def test_too_little_memory_is_no_damage(tiny_llm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("ex2.policy.sampler.Decoder", lambda *_, **__: full)
    generator, _ = load_generator(str(tiny_llm))
    with pytest.raises(torch.OutOfMemoryError):
        list(generator.sample(ASKS[:1], seed=0))
