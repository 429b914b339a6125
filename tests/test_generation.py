"""Sampling from a policy: asks, batches, seeds, and where a policy's settings come from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ex2.base.errors import UserError
from ex2.generation import Ask, find_policy, load_generator, spread_asks
from ex2.texts.questions import QUESTION_SETS

ASKS = [Ask(i, name, "Describe a {}.") for i, name in enumerate(("puffin", "tiger", "hammer", "cat", "axe"))]


def test_spread_asks_use_every_question() -> None:
    asks = spread_asks(["cat", "owl", "bat"], ["q0 {}", "q1 {}", "q2 {}"], samples=2)
    assert [ask.class_id for ask in asks] == [0, 0, 1, 1, 2, 2]
    assert [ask.question[:2] for ask in asks] == ["q0", "q1", "q1", "q2", "q2", "q0"]
    assert asks[2].class_name == "owl"


def test_both_orders_of_a_pair_get_the_same_questions() -> None:
    questions = ["q0 {} {other}", "q1 {} {other}", "q2 {} {other}"]
    asks = spread_asks(["cat", "owl", "bat"], questions, samples=2, pairs=[(0, 2), (2, 0), (0, 1), (1, 0)])
    assert [ask.subject for ask in asks[::2]] == [(0, 2), (2, 0), (0, 1), (1, 0)]
    assert [ask.question[:2] for ask in asks] == ["q0", "q1", "q0", "q1", "q1", "q2", "q1", "q2"]
    assert (asks[0].class_name, asks[0].other_name) == ("cat", "bat")


def test_the_base_of_a_policy_is_asked_in_the_same_way(trained_run: Path, tiny_llm: Path) -> None:
    policy = find_policy(str(trained_run))
    base = policy.base
    assert (base.name, base.adapter, base.fingerprint) == (str(tiny_llm), None, "")
    assert (base.settings, base.questions) == (policy.settings, policy.questions)
    assert base.base is base
    plain, _ = load_generator(str(tiny_llm), overrides={"max_completion_length": 8})
    assert list(base.load().sample(ASKS, seed=0)) == list(plain.sample(ASKS, seed=0))


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


def test_a_run_brings_its_settings(trained_run: Path) -> None:
    run = find_policy(str(trained_run))
    assert run.adapter == trained_run / "adapter"
    assert (run.max_new_tokens, run.temperature, run.questions) == (8, 1.0, QUESTION_SETS["short"])
    assert len(run.fingerprint) == 16
    checkpoint = find_policy(str(trained_run / "checkpoint-2"))
    assert checkpoint.settings == run.settings
    assert checkpoint.fingerprint != run.fingerprint
    assert find_policy(str(trained_run / "adapter")).fingerprint == run.fingerprint
    other = find_policy(str(trained_run), {"questions": "study", "max_completion_length": 5, "temperature": None})
    assert (len(other.questions), other.max_new_tokens, other.temperature) == (25, 5, 1.0)


def test_an_adapter_away_from_its_run_names_its_base_model(trained_run: Path, tmp_path: Path, tiny_llm: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in (trained_run / "adapter").iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    found = find_policy(str(moved))
    assert found.settings == {}
    here, there = found.load(), find_policy(str(trained_run), {"max_completion_length": 32}).load()
    assert list(here.sample(ASKS, seed=0)) == list(there.sample(ASKS, seed=0))
    plain, _ = load_generator(str(tiny_llm))
    assert list(plain.sample(ASKS, seed=0)) != list(here.sample(ASKS, seed=0))
    (moved / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no weights: adapter_model.safetensors is missing"):
        find_policy(str(moved))


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model_name_or_path": "smollm2"}))
    with pytest.raises(
        UserError, match="has not finished: it holds no adapter. Resume it, or name one of its checkpoints"
    ):
        find_policy(str(tmp_path))


def test_nothing_of_that_name() -> None:
    with pytest.raises(
        UserError, match=r"RUN_OR_MODEL=runs/absent: .* could not be fetched from the hub: use a local folder"
    ):
        load_generator("runs/absent")


def test_the_base_of_a_run_is_the_revision_that_it_was_trained_on(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"model_revision": "v2"}))
    asked: list[tuple[str, str]] = []

    def resolve(name: str, cache_dir: str | None, revision: str = "main", option: str = "") -> str:
        asked.append((name, revision))
        return name

    monkeypatch.setattr("ex2.generation.resolve_model", resolve)
    policy = find_policy(str(run))
    policy.base_path(None)
    policy.base.base_path(None)
    find_policy(config["model_name_or_path"]).base_path(None)
    base = config["model_name_or_path"]
    assert asked == [(base, "v2"), (base, "v2"), (base, "main")]
