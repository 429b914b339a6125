"""Contribution tests and controls, on an encoder whose every vector is known: dot products by hand, slow loops, properties."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from ex2.analysis.contribution import (
    CLAUSE_TESTS,
    TEXT_TESTS,
    Similarity,
    all_texts,
    clause_tests,
    framed,
    reordered,
    text_tests,
)
from ex2.scoring.bank import ImageBank
from ex2.scoring.scorer import TextScorer
from ex2.texts.categories import Passage
from ex2.texts.controls import random_words, renamed, scrambled, some_of_each_class, swapped
from ex2.texts.questions import TEMPLATE


class TableVLM:
    """Knows the vectors of a few texts, and no others; remembers what it was asked."""

    name, logit_scale, max_text_tokens = "table", 100.0, 77
    device = torch.device("cpu")

    def __init__(self, table: Mapping[str, tuple[float, float]]) -> None:
        self.table = table
        self.encoded: list[str] = []
        self.batches: list[int] = []

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        self.encoded += texts
        self.batches.append(len(texts))
        return torch.tensor([self.table[text] for text in texts])


def bank_of(images: Sequence[tuple[int, str, tuple[float, ...]]], classes: Sequence[str]) -> ImageBank:
    """Images as class id, split and unit vector."""
    return ImageBank(
        class_names=tuple(classes),
        embeddings=torch.tensor([vector for *_, vector in images]),
        labels=torch.tensor([label for label, *_ in images]),
        split_ids=torch.tensor([("reward", "heldout").index(split) for _, split, _ in images]),
        image_ids=tuple(map(str, range(len(images)))),
        vlm_name="table",
        vlm_fingerprint="0",
        dataset="memory",
    )


CAT = Passage("cat", ("A cat has whiskers.", "It sleeps."))
DOG = Passage("dog", ("The dog barks.",))
# Held-out images: of the cat (1, 0) and (0.6, 0.8), mean (0.8, 0.4); of the dog (0, 1). Reward images are the other way
# round, so that a test with the wrong split cannot pass.
BANK = bank_of(
    [
        (0, "reward", (0.0, 1.0)),
        (0, "heldout", (1.0, 0.0)),
        (0, "heldout", (0.6, 0.8)),
        (1, "reward", (1.0, 0.0)),
        (1, "heldout", (0.0, 1.0)),
    ],
    ["cat", "dog"],
)
# Every text that the tests need and its vector. Cosines with cat and dog images are (0.8 x + 0.4 y, y).
TABLE = {
    "A cat has whiskers. It sleeps.": (1.0, 0.0),  # 0.8, 0
    "it has whiskers. It sleeps.": (0.6, 0.8),  # 0.8, 0.8
    "It sleeps. A cat has whiskers.": (0.8, 0.6),  # 0.88, 0.6
    "a photo of a cat": (0.0, 1.0),  # 0.4, 1
    "It sleeps.": (0.0, -1.0),  # -0.4, -1
    "A cat has whiskers.": (0.6, -0.8),  # 0.16, -0.8
    "cat.": (0.8, 0.6),  # 0.88, 0.6
    "cat: it has whiskers.": (1.0, 0.0),  # 0.8, 0
    "cat: It sleeps.": (-1.0, 0.0),  # -0.8, 0
    "The dog barks.": (0.6, 0.8),  # 0.8, 0.8
    "it barks.": (0.8, 0.6),  # 0.88, 0.6
    "a photo of a dog": (1.0, 0.0),  # 0.8, 0
    "dog.": (0.0, 1.0),  # 0.4, 1
    "dog: it barks.": (-0.6, 0.8),  # -0.16, 0.8
}


@pytest.fixture
def vlm() -> TableVLM:
    return TableVLM(TABLE)


@pytest.fixture
def similarity(vlm: TableVLM) -> Similarity:
    return Similarity(TextScorer(vlm, BANK))  # type: ignore[arg-type]


def test_tests_of_descriptions_by_hand(similarity: Similarity) -> None:
    results = text_tests(similarity, [CAT, DOG], [0, 1])
    assert list(results) == ["cosine", *TEXT_TESTS]
    expected = {
        "cosine": (0.8, 0.8),
        "gain": (0.8 - 0.4, 0.8 - 0.0),  # against the template
        "specificity": (0.8 - 0.0, 0.8 - 0.8),  # against the other class
        "stripped": (0.8 - 0.8, 0.6 - 0.88),
        "shuffle_drop": (0.8 - 0.88, math.nan),  # one clause has no other order
    }
    for name, values in expected.items():
        assert results[name] == pytest.approx(values, abs=1e-6, nan_ok=True), name


def test_tests_of_clauses_by_hand(similarity: Similarity) -> None:
    results = clause_tests(similarity, [CAT, DOG], [0, 1])
    assert tuple(results) == CLAUSE_TESTS
    # The whole without its first clause is "It sleeps.", without its second "A cat has whiskers.".
    assert results["clause_drop"] == pytest.approx([0.8 + 0.4, 0.8 - 0.16, math.nan], abs=1e-6, nan_ok=True)
    assert results["added"] == pytest.approx([0.8 - 0.88, -0.8 - 0.88, 0.8 - 1.0], abs=1e-6)


def test_passages_keep_their_order(similarity: Similarity) -> None:
    for tests in (text_tests, clause_tests):
        one, other = tests(similarity, [CAT, DOG], [0, 1]), tests(similarity, [DOG, CAT, DOG], [1, 0, 1])
        for name, values in one.items():
            cat, dog = np.split(values, [2 if tests is clause_tests else 1])
            assert np.array_equal(other[name], np.concatenate([dog, cat, dog]), equal_nan=True)


def test_every_distinct_text_is_encoded_once(vlm: TableVLM, similarity: Similarity) -> None:
    similarity.encode(all_texts([CAT, DOG, CAT]))
    assert sorted(vlm.encoded) == sorted(TABLE)
    text_tests(similarity, [CAT, DOG], [0, 1])
    clause_tests(similarity, [CAT, DOG], [0, 1])
    assert len(vlm.encoded) == len(TABLE)  # `all_texts` left nothing to be encoded one by one


def test_descriptions_that_are_not_taken_apart(similarity: Similarity) -> None:
    apart = [False, True, True]  # the last has one clause
    passages, ids = [CAT, CAT, DOG], [0, 0, 1]
    texts, clauses = (
        text_tests(similarity, passages, ids, apart),
        clause_tests(similarity, passages, ids, apart),
    )
    assert np.isnan(texts["shuffle_drop"]).tolist() == [True, False, True]
    assert np.isnan(clauses["clause_drop"]).tolist() == [True, True, False, False, True]
    whole = text_tests(similarity, passages, ids) | clause_tests(similarity, passages, ids)
    for name, values in (texts | clauses).items():
        measured = ~np.isnan(values)
        assert np.array_equal(values[measured], whole[name][measured])  # the others are as they were

    fresh = TableVLM(TABLE)
    Similarity(TextScorer(fresh, BANK)).encode(all_texts([CAT, DOG], [False, True]))  # type: ignore[arg-type]
    assert sorted(set(TABLE) - set(fresh.encoded)) == sorted([reordered(CAT.clauses), *CAT.clauses])


def test_embeddings_come_back_in_the_order_asked_for(vlm: TableVLM, similarity: Similarity) -> None:
    similarity.encode(["It sleeps.", "cat."])
    asked = ["a photo of a cat", "cat.", "It sleeps.", "cat.", "dog."]
    assert similarity.embeddings(asked).tolist() == torch.tensor([TABLE[text] for text in asked]).tolist()
    assert sorted(vlm.encoded) == sorted(set(asked))


def test_texts_of_as_many_tokens_are_encoded_together() -> None:
    """Long words are few tokens: by characters, each batch would be padded."""
    texts = ["incomprehensibilities", "of", "a b c d e", "characteristically", "i am", "honorificabilitudinitatibus so"]
    vlm = TableVLM(dict.fromkeys(texts, (1.0, 0.0)))
    Similarity(TextScorer(vlm, BANK, batch_size=3)).encode(texts)  # type: ignore[arg-type]
    assert vlm.count_tokens(vlm.encoded) == [1, 1, 1, 2, 2, 5]
    assert vlm.batches == [3, 3]


def test_similarity_is_the_mean_cosine_with_single_images() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = [0] * 3 + [1] * 5 + [2] * 2
    vectors = normalize(torch.randn(len(labels), 2, generator=generator), dim=1)
    images = [(label, "heldout", tuple(vector)) for label, vector in zip(labels, vectors.tolist(), strict=True)]
    scorer = TextScorer(TableVLM(TABLE), bank_of(images, "abc"))  # type: ignore[arg-type]
    similarity = Similarity(scorer)
    texts, ids = list(TABLE), [i % 3 for i in range(len(TABLE))]
    own, others = similarity.own(texts, ids), similarity.others(texts, ids)
    for text, class_id, mine, rest in zip(texts, ids, own, others, strict=True):
        cosines = vectors @ torch.tensor(TABLE[text])
        by_class = [cosines[torch.tensor(labels) == c].mean().item() for c in range(3)]
        assert mine == pytest.approx(by_class[class_id], abs=1e-6)
        # Every wrong class counts equally, whatever its number of images.
        assert rest == pytest.approx((sum(by_class) - by_class[class_id]) / 2, abs=1e-6)


def test_reward_images_can_be_asked_for(vlm: TableVLM) -> None:
    similarity = Similarity(TextScorer(vlm, BANK), "reward")  # type: ignore[arg-type]
    assert similarity.own(["dog.", "dog."], [0, 1]) == pytest.approx([1.0, 0.0])


def test_one_class_has_no_other_to_compare_with(vlm: TableVLM) -> None:
    scorer = TextScorer(vlm, bank_of([(0, "heldout", (1.0, 0.0))], ["cat"]))  # type: ignore[arg-type]
    results = text_tests(Similarity(scorer), [CAT], [0])
    assert np.isnan(results["specificity"]).all()
    assert np.isnan(results["stripped"]).all()
    assert results["gain"] == pytest.approx([1.0])


# ---------------------------------------------------------------- the texts that are compared


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        ("", "tiger."),
        (".", "tiger."),
        ("- ", "tiger."),
        ("It has orange fur;", "tiger: It has orange fur."),
        ("The tiger's fur is orange!", "tiger: it fur is orange."),
        ("\u2014 and lives in Siberia", "tiger: and lives in Siberia."),
        ("it weighs 3.5 t.", "tiger: it weighs 3.5 t."),
    ],
)
def test_every_clause_is_framed_alike(clause: str, expected: str) -> None:
    assert framed("tiger", clause) == expected


ONE_WORD_CLAUSES = st.lists(st.sampled_from("abc"), min_size=1, max_size=7)


@given(ONE_WORD_CLAUSES)
def test_reordered_clauses_are_the_same_clauses_in_another_order(clauses: list[str]) -> None:
    turned = reordered(clauses)
    assert sorted(turned.split()) == sorted(clauses)
    assert (turned == " ".join(clauses)) == (len(set(clauses)) == 1)
    assert turned == reordered(tuple(clauses)) == reordered(list(clauses))
    assert reordered([]) == ""


@given(st.text(), st.integers(0, 5))
def test_scrambled_keeps_the_words(text: str, seed: int) -> None:
    turned = scrambled(text, seed)
    assert Counter(turned.split()) == Counter(text.split())
    assert turned == scrambled(text, seed)


def test_scrambled_depends_on_seed_and_text() -> None:
    text = "it has a long bill and short legs"
    orders = {scrambled(text, seed) for seed in range(5)}
    assert len(orders) == 5
    assert text not in orders
    # Each text has an order of its own: equal lengths are not all moved alike.
    letters = [scrambled(" ".join(words), 0) for words in ("abcdefgh", "ABCDEFGH", "ijklmnop")]
    places = {tuple(sorted(range(8), key=turned.split().__getitem__)) for turned in letters}
    assert len(places) == 3


def test_random_words_are_templates_with_words_of_the_descriptions() -> None:
    pool = ['It has "ORANGE" fur,', "(and) it's loud!"]
    made = random_words(["owl", "elk"], pool, 3, seed=0)
    assert [class_id for class_id, _ in made] == [0, 0, 0, 1, 1, 1]
    for class_id, text in made:
        start = f"{TEMPLATE.replace('{}', ['owl', 'elk'][class_id])}, which has "
        assert text.startswith(start)
        assert text.endswith(".")
        first, second = text.removeprefix(start).removesuffix(".").split(", ")
        assert {first, second} <= {"it", "has", "orange", "fur", "and", "it's", "loud"}
    assert made == random_words(["owl", "elk"], pool[::-1], 3, seed=0)
    assert made != random_words(["owl", "elk"], pool, 3, seed=1)
    assert len({text for _, text in random_words(["owl"], pool, 20, seed=0)}) > 5
    assert random_words(["owl"], ["...", "!"], 1, seed=0) == [(0, "a photo of a owl, which has it, it.")]


@given(st.lists(st.integers(0, 6), min_size=2, max_size=20).filter(lambda ids: len(set(ids)) > 1), st.integers(0, 9))
def test_swapped_texts_are_never_tried_on_their_own_class(ids: list[int], seed: int) -> None:
    others = swapped(ids, seed)
    assert all(a != b for a, b in zip(ids, others, strict=True))
    # Class by class: all texts of one go to one other, and every class that occurs gets those of exactly one.
    following = dict(zip(ids, others, strict=True))
    assert others == [following[i] for i in ids]
    assert set(following.values()) == set(ids)
    assert others == swapped(ids, seed)


def test_swapping_is_random_by_seed() -> None:
    assert len({tuple(swapped(range(6), seed)) for seed in range(10)}) > 5


def test_renamed() -> None:
    assert renamed("The tiger's fur; tigers hunt", "tiger", "owl") == "owl fur; owl hunt"
    assert renamed("It hunts", "tiger", "owl") == "It hunts"
    assert renamed("A tiger", "tiger", r"C:\1\g<0>") == r"C:\1\g<0>"  # a class may be called anything


def test_splits_share_what_is_encoded(vlm: TableVLM, similarity: Similarity) -> None:
    texts = [" ".join(CAT.clauses)]
    similarity.encode(texts)
    encoded = similarity._scorer.texts_encoded
    other = similarity.on("reward")
    assert other.own(texts, [0]) == pytest.approx(similarity._scorer.cosine(texts, [0], "reward").tolist())
    assert similarity.own(texts, [0]) == pytest.approx(similarity._scorer.cosine(texts, [0], "heldout").tolist())
    assert similarity._scorer.texts_encoded - encoded <= 1  # the scorer's own check above; none by `own`


def test_some_of_each_class_is_all_of_small_ones() -> None:
    class_ids = [2, 0, 2, 2, 1, 0]
    chosen = some_of_each_class(class_ids, 2, seed=0)
    assert chosen == sorted(chosen)
    assert [i for i in chosen if class_ids[i] == 0] == [1, 5]
    assert [class_ids[i] for i in chosen].count(2) == 2
    assert 4 in chosen
    assert some_of_each_class(class_ids, 6, seed=0) == list(range(6))
