"""Placebos and counterfactual edits: which clauses are changed, how, and what they say about which class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from ex2.analysis.contribution import Similarity
from ex2.analysis.findings import counterfactuals
from ex2.analysis.judging import Judged
from ex2.analysis.placebo import PER_CLASS, about, changed_clauses, texts_of
from ex2.analysis.verdict import counterfactual_sentences
from ex2.scoring.bank import ImageBank
from ex2.scoring.scorer import TextScorer
from ex2.texts.categories import Passage
from ex2.texts.controls import COLOURS, PLACES, moved, recoloured
from ex2.texts.descriptions import Description

NAMES = ("crab", "owl", "tiger")


class HashVLM:
    """A random direction for every text, always the same one."""

    name, dim, logit_scale, max_text_tokens = "hash", 16, 100.0, 77
    device = torch.device("cpu")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") for text in texts]
        rows = [torch.randn(self.dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return normalize(torch.stack(rows), dim=1)


@pytest.fixture(scope="module")
def similarity() -> Similarity:
    labels = torch.arange(3).repeat_interleave(4)
    bank = ImageBank(
        class_names=NAMES,
        embeddings=normalize(torch.randn(12, HashVLM.dim, generator=torch.Generator().manual_seed(0)), dim=1),
        labels=labels,
        split_ids=torch.arange(12) % 2,
        image_ids=tuple(map(str, range(12))),
        vlm_name="hash",
        vlm_fingerprint="0",
        dataset="memory",
    )
    return Similarity(TextScorer(HashVLM(), bank))  # type: ignore[arg-type]


def judged(*texts: tuple[str, str]) -> Judged:
    records = [
        Description("memory", NAMES.index(name), name, "What is it?", text, "hand", 0, {}) for name, text in texts
    ]
    return Judged("aligned", records, [Passage.of(name, text) for name, text in texts], [])


def test_clauses_are_changed_in_all_ways() -> None:
    changed = changed_clauses(
        judged(("crab", "A crab has red claws. It lives in the ocean."), ("owl", "It has big eyes.")), NAMES, 0
    )
    assert [len(reads) for reads in changed.values()] == [3] * 4
    swapped = changed["swapped"]
    # Two classes are described, so each is tried on the other, without its own name.
    assert [read.class_id for read in swapped if read] == [1, 1, 0]
    assert swapped[0] == (1, "owl: it has red claws.", "owl.")
    assert sorted(changed["scrambled"][2].text.removeprefix("owl: ").rstrip(".").split()) == [
        "big",
        "eyes",
        "has",
        "it",
    ] or (sorted(changed["scrambled"][2].text.casefold().replace(".", "").split()[1:]) == ["big", "eyes", "has", "it"])
    assert changed["recoloured"][0].text == "crab: it has blue claws."
    assert changed["recoloured"][1:] == [None, None]
    assert changed["moved"][1].text == "crab: It lives in the mountain." or "ocean" not in changed["moved"][1].text
    assert changed["moved"][0] is changed["moved"][2] is None
    assert {"owl.", "crab.", "owl: it has red claws."} <= set(texts_of(changed))


def test_placebos_are_of_some_descriptions_and_edits_of_all() -> None:
    many = judged(
        *[("owl", f"It has {number} red eyes.") for number in range(PER_CLASS + 5)], ("crab", "It has red claws.")
    )
    changed = changed_clauses(many, NAMES, 0)
    assert sum(read is not None for read in changed["swapped"]) == PER_CLASS + 1
    assert all(read is not None for read in changed["recoloured"])


def test_what_a_changed_clause_says_by_hand(similarity: Similarity) -> None:
    changed = changed_clauses(judged(("crab", "It has red claws."), ("owl", "It has big eyes.")), NAMES, 0)
    columns = about(similarity, changed)
    for way, reads in changed.items():
        for value, read in zip(columns[f"about_{way}"], reads, strict=True):
            if read is None:
                assert np.isnan(value)
                continue
            own, others = [read.class_id], [i for i in range(3) if i != read.class_id]

            def cosines(text: str, ids: list[int]) -> float:
                return float(np.mean([similarity.own([text], [i])[0] for i in ids]))

            gained = {
                group: cosines(read.text, ids) - cosines(read.name, ids)
                for group, ids in (("own", own), ("others", others))
            }
            assert value == pytest.approx(gained["own"] - gained["others"], abs=1e-6)


def test_edits_change_every_colour_and_place_and_nothing_else() -> None:
    assert (
        recoloured("A Red fox with white, REDDISH fur")
        == f"A {recoloured('red')} fox with {recoloured('white')}, REDDISH fur"
    )
    assert moved("It lives in forests, on beaches and in a city.") == (
        f"It lives in {moved('forests')}, on {moved('beaches')} and in a {moved('city')}."
    )
    assert moved("cities") == f"{moved('city')}s"
    assert recoloured("It reads.") is moved("It reads.") is None
    for words, change in ((COLOURS, recoloured), (PLACES, moved)):
        assert sorted(change(word) for word in words) == sorted(words)  # each is put in the place of one other
        assert all(change(word) != word for word in words)
    assert {recoloured("grey"), recoloured("gray")}.isdisjoint({"grey", "gray", "white", "silver"})


def test_counterfactuals_by_hand_and_in_words() -> None:
    rng = np.random.default_rng(0)
    clauses = pd.DataFrame(
        {
            "class_id": np.repeat(np.arange(20), 2), "added": 0.05 + 0.01 * rng.normal(size=40), "added_elsewhere": 0.01,
            "about_recoloured": 0.01 * rng.normal(size=40), "about_moved": np.where(np.arange(40) < 4, 0.0, np.nan),
        }
    )  # fmt: skip
    table = counterfactuals(clauses).set_index("edit")
    lost = (clauses["added"] - 0.01 - clauses["about_recoloured"]).groupby(clauses["class_id"]).mean()
    assert table.loc["recoloured", "mean"] == pytest.approx(lost.mean())
    assert (table.loc["recoloured", "classes"], table.loc["recoloured", "n"]) == (20, 40)
    assert (table.loc["moved", "classes"], table.loc["moved", "n"]) == (2, 4)
    (sentence,) = counterfactual_sentences(table.reset_index())  # two classes say nothing about places
    assert sentence.startswith(
        "With another colour, 40 clauses that name one lose some of what they say about their class (cosine +0.0"
    )
    wrong = counterfactuals(clauses.assign(about_recoloured=0.3 + 0.01 * rng.normal(size=40)))
    assert "say more about their class" in counterfactual_sentences(wrong)[0]
    same = counterfactuals(clauses.assign(about_recoloured=clauses["added"] - 0.01 + 0.01 * rng.normal(size=40)))
    assert "do not clearly say less about their class" in counterfactual_sentences(same)[0]
