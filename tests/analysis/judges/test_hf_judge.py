"""The judge that is an LLM: label scores and calibration against single forward passes, batches, order, prompts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, GPT2Config

from ex2.analysis.judges import load_judge
from ex2.analysis.judges.hf import CONTENT_FREE, LABELS, HFJudge, _contexts
from ex2.base.errors import UserError
from ex2.texts.categories import Judge, Judgement, Passage

PASSAGES = [
    Passage("tiger", ("It has orange fur with black stripes", "and lives in Siberia.")),
    Passage("hammer", ("A heavy steel head on a wooden handle, long, hard and cold",)),
    Passage("owl", ("It has orange fur with black stripes", "hoots", "")),
    Passage("tiger", ("and lives in Siberia.",)),
]


@pytest.fixture(scope="module", params=["chat", "plain"])
def folder(request: pytest.FixtureRequest, tiny_llm: Path, tiny_chat_llm: Path) -> Path:
    return tiny_chat_llm if request.param == "chat" else tiny_llm


def close(one: list[tuple[Judgement, ...]], other: list[tuple[Judgement, ...]]) -> bool:
    rows = [[judgement.probabilities for of in judged for judgement in of] for judged in (one, other)]
    return torch.allclose(torch.tensor(rows[0]), torch.tensor(rows[1]), atol=1e-5)


def slowly(folder: Path, prompt: list[int], label: list[int]) -> float:
    """Log-probability of `label` after `prompt`: one pass for each of its tokens, nothing padded or kept."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total = 0.0
    for i, token in enumerate(label):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + label[:i]])).logits[0, -1]
        total += logits.log_softmax(dim=0)[token].item()
    return total


def test_scores_and_calibration_equal_single_passes(folder: Path) -> None:
    judge = HFJudge(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = tokenizer.chat_template is not None
    labels = [tokenizer(word if chat else f" {word}", add_special_tokens=False)["input_ids"] for word in LABELS]
    assert max(map(len, labels)) > 1  # labels of several tokens are part of the test

    def shares(thing: str, clause: str) -> list[float]:
        weights = [math.exp(slowly(folder, judge._prompt(thing, clause), label)) for label in labels]
        return [weight / sum(weights) for weight in weights]

    content_free = [shares(text, text) for text in CONTENT_FREE]
    prior = [sum(column) / len(CONTENT_FREE) for column in zip(*content_free, strict=True)]
    for thing, clause in [("tiger", "and lives in Siberia."), ("owl", "")]:
        calibrated = [share / p for share, p in zip(shares(thing, clause), prior, strict=True)]
        expected = [value / sum(calibrated) for value in calibrated]
        ((judgement,),) = judge.judge([Passage(thing, (clause,))], progress=False)
        assert judgement.probabilities == pytest.approx(expected, abs=1e-4)
        assert judgement.probabilities != pytest.approx(shares(thing, clause), abs=1e-2)  # calibration did something


def test_probabilities_sum_to_one_and_there_are_no_tags(folder: Path) -> None:
    judge: Judge = HFJudge(str(folder))
    judged = judge.judge(PASSAGES, progress=False)
    assert judge.name == f"hf:{folder}"
    assert [len(of) for of in judged] == [2, 1, 3, 1]
    for judgement in (judgement for of in judged for judgement in of):
        assert len(judgement.probabilities) == len(LABELS)
        assert sum(judgement.probabilities) == pytest.approx(1.0, abs=1e-9)
        assert judgement.tags == ()


def test_the_size_of_batches_changes_nothing(folder: Path) -> None:
    expected = HFJudge(str(folder), batch_size=1).judge(PASSAGES, progress=False)
    for size in (2, 3, 32):
        assert close(HFJudge(str(folder), batch_size=size).judge(PASSAGES, progress=False), expected)


def test_judgements_keep_their_order_whoever_else_is_judged(tiny_chat_llm: Path) -> None:
    judge = HFJudge(str(tiny_chat_llm), batch_size=2)
    judged = judge.judge(PASSAGES, progress=False)
    alone = [judge.judge([passage], progress=False)[0] for passage in PASSAGES]
    assert close(judged, alone)
    assert close(judge.judge(PASSAGES[::-1], progress=False), alone[::-1])
    first, other_class = judged[0][0], judged[2][0]
    assert first.probabilities != pytest.approx(
        other_class.probabilities, abs=1e-4
    )  # the class is part of the question
    assert judge.judge([], progress=False) == []
    assert judge.judge([Passage("owl", ())], progress=False) == [()]


def test_equal_clauses_are_scored_once(tiny_llm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = HFJudge(str(tiny_llm))
    scored: list[int] = []
    log_probs = judge._log_probs

    def counted(prompts: list[list[int]], progress: bool = False) -> torch.Tensor:
        scored.append(len(prompts))
        return log_probs(prompts, progress)

    monkeypatch.setattr(judge, "_log_probs", counted)
    judged = judge.judge(PASSAGES, progress=False)
    assert scored == [6]
    assert judged[0][1] == judged[3][0]


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=2048, initializer_range=0.2),
        BloomConfig(hidden_size=32, n_layer=2, n_head=2, initializer_range=0.2),
    ],
    ids=["absolute positions", "positions from the mask alone"],
)
def test_padding_moves_no_positions(config: Any, tiny_llm: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    config.vocab_size, config.bos_token_id, config.eos_token_id = len(tokenizer), None, tokenizer.eos_token_id
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    one = HFJudge(str(tmp_path), batch_size=1).judge(PASSAGES, progress=False)
    assert close(HFJudge(str(tmp_path), batch_size=6).judge(PASSAGES, progress=False), one)


def test_prompts_show_task_examples_and_clause(tiny_llm: Path, tiny_chat_llm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    plain = tokenizer.decode(HFJudge(str(tiny_llm))._prompt("owl", "It\n hoots"))
    assert plain.startswith("A clause says something about a thing.")
    assert "\n\nThing: chair\nClause: with four wooden legs\nKind: appearance\n\n" in plain
    assert plain.endswith("\n\nThing: owl\nClause: It hoots\nKind:")
    assert "<|" not in plain
    chat = tokenizer.decode(HFJudge(str(tiny_chat_llm))._prompt("owl", "It hoots"))
    assert chat.startswith("<|user|>A clause says something about a thing.")
    assert "<|user|>Thing: chair\nClause: with four wooden legs\nKind:<|end|><|assistant|>appearance<|end|>" in chat
    assert chat.endswith("<|user|>Thing: owl\nClause: It hoots\nKind:<|end|><|assistant|>")


def test_contexts_predict_every_token_of_every_label() -> None:
    assert _contexts([(1,), (2,), (3,), (4,)]) == [()]
    assert _contexts([(1, 2), (3,), (4,), (5,)]) == [(1,)]
    assert _contexts([(1, 2), (1, 6, 7), (4, 8), (5,)]) == [(1, 6), (4,)]


@pytest.mark.usefixtures("every_line")
def test_progress_is_shown_where_it_is_wanted(tiny_llm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = HFJudge(str(tiny_llm))
    capsys.readouterr()
    judge.judge(PASSAGES[:1], progress=False)
    assert capsys.readouterr().err == ""
    judge.judge(PASSAGES[:1])
    assert "judging: 2 of 2 clauses" in capsys.readouterr().err


def test_the_spec_of_a_folder(tiny_llm: Path) -> None:
    judge = load_judge(f"hf:{tiny_llm}")
    assert isinstance(judge, HFJudge)
    assert {parameter.dtype for parameter in judge._model.parameters()} == {torch.float32}
    assert not judge._model.training


def test_models_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^judge hf:\./absent: model=\./absent is not a folder\.$"):
        load_judge("hf:./absent")
    with pytest.raises(
        UserError, match=r"^judge hf:ex2/absent: model=ex2/absent: .* could not be fetched from the hub"
    ):
        load_judge("hf:ex2/absent")
    with pytest.raises(UserError, match=r"^judge hf:.* holds no model: config.json is missing"):
        load_judge(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match=r"^judge hf:.*could not be loaded: check that it is a causal language model"):
        load_judge(f"hf:{tmp_path}")
