"""The study as a whole: a planted truth must be found and nothing else, every share by hand, what is written is read back."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ex2.analysis.findings import (
    FEWEST_CLASSES,
    SHOWN,
    about_class,
    contributions,
    estimate,
    first_and_last,
    hacking_warnings,
    matched,
    question_warnings,
)
from ex2.analysis.judging import judge_all
from ex2.analysis.pipeline import analyse
from ex2.analysis.study import Study, analysis_in
from ex2.analysis.verdict import NO_BASE, NOTHING, verdict
from ex2.base.errors import UserError
from ex2.data import load_images
from ex2.scoring.bank import ImageBank, build_bank
from ex2.scoring.scorer import TextScorer
from ex2.stats.intervals import DIFFERENCE, holm, mean_interval, mean_p
from ex2.texts.categories import CATEGORIES, Judge, Judgement, Passage
from ex2.texts.class_names import strip_name
from ex2.texts.descriptions import Description
from ex2.texts.probe import shipped_probe
from ex2.texts.questions import TEMPLATE
from ex2.vlm import VLM


def described(class_names: Sequence[str], name: str, text: str, question: str = "What is it?") -> Description:
    return Description("memory", list(class_names).index(name), name, question, text, "hand", 0, {})


# ---------------------------------------------------------------- a planted truth, with the real VLM and judge

KINDS = {"visual": "visual", "habitat": "habitat", "non_visual": "use", "spurious": "chatter"}
"""Kinds of the probe's sentences that stand for categories: three of each about each of the sixteen planted classes."""


def facts_of(kind: str) -> dict[str, list[str]]:
    names = load_images("planted:random").class_names
    facts: dict[str, list[str]] = {name: [] for name in names}
    for sentence in shipped_probe("pictograms", load_images("pictograms").class_names):
        if sentence.class_name in facts and sentence.kind == KINDS[kind]:
            facts[sentence.class_name].append(sentence.text)
    # Of every other class nothing spurious is said: were all classes alike, nothing could be told of others.
    return {name: facts[name] for name in (names[::2] if kind == "spurious" else names)}


@pytest.fixture(scope="module")
def local_judge() -> Judge:
    from ex2.analysis.judges import load_judge

    return load_judge("local")


@pytest.fixture(scope="module")
def planted_study(pictogram_vlm: VLM, local_judge: Judge) -> Callable[[str, str], Study]:
    """Analysis of texts of one kind, after a base policy that mixes all kinds, on images that prefer another kind."""

    def study(aligned: str, images: str) -> Study:
        bank = build_bank(pictogram_vlm, load_images(f"planted:{images}"), progress=False)
        names = bank.class_names
        return analyse(
            [described(names, name, text) for name, own in facts_of(aligned).items() for text in own],
            TextScorer(pictogram_vlm, bank),
            local_judge,
            base=[described(names, n, text) for kind in KINDS for n, own in facts_of(kind).items() for text in own],
            progress=False,
        )

    return study


@pytest.mark.parametrize("kind", ["visual", "habitat"])
def test_a_planted_preference_is_found(planted_study: Callable[[str, str], Study], kind: str) -> None:
    study = planted_study(kind, kind)
    (said,) = (sentence for sentence in study.summary["verdict"] if sentence.startswith("Preferred"))
    assert said.startswith(f"Preferred: {kind}. The policy says more of it after training (+")
    preference = study.tables["preference"].set_index("category")
    assert preference["preferred"].to_dict() == {name: name == kind for name in CATEGORIES}
    assert preference.loc[kind, "contribution_low"] > 0
    # In the base policy's texts about a quarter or a third are of the kind, as far as the judge tells.
    assert 0.6 < preference.loc[kind, "change_mean"] < 0.8
    assert (study.summary["classes"], study.summary["classes_of_dataset"]) == (16, 16)


@pytest.mark.parametrize("images", ["visual", "random"])
def test_moving_somewhere_is_no_preference_unless_the_images_agree(
    planted_study: Callable[[str, str], Study], images: str
) -> None:
    """The policy went to habitat, but habitat adds nothing to the similarity with these images."""
    study = planted_study("habitat", images)
    habitat = study.tables["preference"].set_index("category").loc["habitat"]
    assert habitat["change_low"] > 0
    assert habitat["change_p_holm"] < 0.05
    assert not habitat["contribution_low"] > 0
    assert NOTHING in study.summary["verdict"]


# ---------------------------------------------------------------- shares by hand, on an encoder and a judge made up

NAMES = ("ant", "bee", "cow", "dog")


class HashVLM:
    """A random direction for every text, always the same one."""

    name, dim, logit_scale, max_text_tokens = "hash", 8, 100.0, 77
    device = torch.device("cpu")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") for text in texts]
        rows = [torch.randn(self.dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return normalize(torch.stack(rows), dim=1)


class FirstWordJudge:
    """Takes a clause's first word for its category; `red` is a colour."""

    name = "first-word"

    def judge(self, passages: Sequence[Passage], *, progress: bool = True) -> list[tuple[Judgement, ...]]:
        return [tuple(self._one(clause) for clause in passage.clauses) for passage in passages]

    def _one(self, clause: str) -> Judgement:
        first = clause.split()[0]
        tags = ("colour",) if "red" in clause else ()
        if first not in CATEGORIES:
            return Judgement(tuple(1 / len(CATEGORIES) for _ in CATEGORIES), tags)
        return Judgement(tuple(0.75 if name == first else 0.05 for name in CATEGORIES), tags)


ALIGNED = [
    described(NAMES, "ant", "visual red legs."),
    described(NAMES, "ant", "visual six legs. habitat in forests. visual red head.", "How does it look?"),
    described(NAMES, "bee", "visual red stripes."),
    described(NAMES, "bee", "unsure what this is."),
    described(NAMES, "cow", "spurious nice animal."),
]
BASE = [
    described(NAMES, "ant", "habitat under stones."),
    described(NAMES, "ant", "habitat in forests."),
    described(NAMES, "bee", "visual red stripes."),
    described(NAMES, "bee", "habitat in hives."),
    described(NAMES, "dog", "non_visual it barks."),
]


def hash_bank(names: Sequence[str] = NAMES) -> ImageBank:
    each = 6
    labels = torch.arange(len(names)).repeat_interleave(each)
    vectors = torch.randn(len(labels), HashVLM.dim, generator=torch.Generator().manual_seed(0))
    return ImageBank(
        class_names=tuple(names),
        embeddings=normalize(vectors, dim=1),
        labels=labels,
        split_ids=torch.arange(len(labels)) % 2,
        image_ids=tuple(map(str, range(len(labels)))),
        vlm_name="hash",
        vlm_fingerprint="0",
        dataset="memory",
    )


def by_hand(aligned: Sequence[Description] = ALIGNED, base: Sequence[Description] = BASE, **options: Any) -> Study:
    scorer = TextScorer(HashVLM(), hash_bank())  # type: ignore[arg-type]
    return analyse(aligned, scorer, FirstWordJudge(), base=base, progress=False, **options)


@pytest.fixture(scope="module")
def study() -> Study:
    metrics = [
        {"step": 1, "monitors/hub_score": 0.1, "monitors/duplicate_rate": 0.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "monitors/hub_score": 0.2, "monitors/duplicate_rate": 0.0},
    ]
    return by_hand(metrics=metrics, meta={"vlm": "hash", "policy": Path("runs/x")})


def shares(study: Study, table: str = "shares", **where: str) -> dict[str, float]:
    rows = study.tables[table]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return dict(zip(rows["category"], rows["mean"], strict=True))


def test_shares_of_descriptions_by_hand(study: Study) -> None:
    # Visual: of the ant's texts 1 and 2 clauses of 3 (the other is of habitat), of the bee's 1 and 0, of the cow's 0.
    none = dict.fromkeys(SHOWN, 0.0)
    aligned = none | {"visual": (5 / 6 + 1 / 2) / 3, "habitat": 1 / 6 / 3, "spurious": 1 / 3, "unsure": 1 / 2 / 3}
    assert shares(study, level="descriptions", system="aligned") == pytest.approx(aligned)
    base = none | {"visual": (0 + 0.5 + 0) / 3, "habitat": (1 + 0.5 + 0) / 3, "non_visual": 1 / 3}
    assert shares(study, level="descriptions", system="base") == pytest.approx(base)
    assert study.summary["unsure"] == 1 / 7  # of clauses, not of classes


def test_shares_of_clauses_by_hand(study: Study) -> None:
    # Of the ant's four clauses three are visual and one is of habitat; the others have one clause a text.
    aligned = dict.fromkeys(SHOWN, 0.0)
    aligned |= {"visual": (0.75 + 0.5) / 3, "habitat": 0.25 / 3, "spurious": 1 / 3, "unsure": 0.5 / 3}
    assert shares(study, level="clauses", system="aligned") == pytest.approx(aligned)
    for system in ("aligned", "base"):
        for level in ("descriptions", "clauses"):
            assert sum(shares(study, level=level, system=system).values()) == pytest.approx(1)


def test_change_is_paired_over_the_classes_of_both(study: Study) -> None:
    # Ant and bee are in both. Visual: 5/6 - 0 and 1/2 - 1/2; habitat: 1/6 - 1 and 0 - 1/2; unsure: 0 and 1/2.
    change = study.tables["share_change"]
    texts = change[change["level"] == "descriptions"].set_index("category")
    expected = dict.fromkeys(SHOWN, 0.0) | {"visual": 5 / 12, "habitat": -2 / 3, "unsure": 0.25}
    assert texts["mean"].to_dict() == pytest.approx(expected)
    assert set(change["classes"]) == {2}
    # All intervals that a verdict can rest on hold at once, and p-values are corrected for all of the table.
    ends = mean_interval([-5 / 6, -1 / 2], level=1 - 0.05 / (4 * len(CATEGORIES)), bounds=(-1.0, 1.0))
    assert (texts.loc["habitat", "low"], texts.loc["habitat", "high"]) == pytest.approx((ends.low, ends.high))
    assert texts.loc["habitat", "within"] == pytest.approx(-ends.low)
    assert texts.loc["habitat", "p"] == pytest.approx(mean_p([-5 / 6, -1 / 2]))
    # Neither class changed: of other classes nothing can be told.
    assert texts.loc["non_visual", ["low", "high", "p", "p_holm", "within", "detectable"]].isna().all()
    assert change["p_holm"].tolist() == pytest.approx(holm(change["p"]).tolist(), nan_ok=True)
    clauses = shares(study, "share_change", level="clauses")
    assert clauses["visual"] == pytest.approx((0.75 - 0 + 0.5 - 0.5) / 2)


def test_every_table_has_its_rows(study: Study) -> None:
    systems = (
        "class_name",
        "template",
        "random_words",
        "base",
        "best_of_n",
        "scrambled",
        "swapped",
        "renamed",
        "aligned",
    )
    rows = {
        "descriptions": len(ALIGNED) + len(BASE),
        "clauses": (1 + 3 + 1 + 1 + 1) + 5,
        "shares": 2 * 2 * len(SHOWN),  # levels, systems
        "share_change": 2 * len(SHOWN),
        "shares_by_class": (2 + 2 + 1) + (1 + 2 + 1),  # categories of ant, bee, cow; base: of ant, bee, dog
        "shares_by_question": (3 + 2) + 3,  # aligned: three categories, two for the other question; base: three
        "attributes": 27 * 2,
        "contributions": (4 + 3 + 2 + 2) * len(CATEGORIES),
        "counterfactuals": 2,
        "attribute_contributions": 27,
        "zero_shot": 1 + 1 + 2,  # template, all, and the categories of whole aligned texts: visual and spurious
        "preference": len(CATEGORIES),
        "controls": 2 * len(systems),
        "controls_nameless": 2 * len(systems),
        "learning_curve": 3,
    }
    assert {name: len(table) for name, table in study.tables.items()} == rows
    assert study.summary["tables"] == sorted(rows)
    assert set(study.tables["controls"]["system"]) == set(systems)


def test_clauses_point_at_their_description(study: Study) -> None:
    texts, clauses = study.tables["descriptions"], study.tables["clauses"]
    for position, own in clauses.groupby("description"):
        assert " ".join(own["clause"]) == texts.loc[position, "text"]
        assert set(own["class_name"]) == {texts.loc[position, "class_name"]}
        assert set(own["system"]) == {texts.loc[position, "system"]}
    assert clauses["clause_drop"].notna().tolist() == [False, True, True, True] + [False] * 8


def test_attributes_by_hand(study: Study) -> None:
    table = study.tables["attributes"].set_index(["system", "tag"])
    aligned, base = table.loc[("aligned", "colour")], table.loc[("base", "colour")]
    # Clauses with red: of the ant's four two, of the bee's two one, of the cow's none; base: of the bee's two one.
    assert (aligned["mean"], aligned["n"]) == (pytest.approx((2 / 4 + 1 / 2 + 0) / 3), 3)
    assert (base["mean"], base["n"]) == (pytest.approx((0 + 1 / 2 + 0) / 3), 1)
    assert table["n"].sum() == 4  # no other tag anywhere


def test_contributions_are_means_over_classes(study: Study) -> None:
    table = study.tables["contributions"].set_index(["test", "category"])
    texts = study.tables["descriptions"].query("system == 'aligned' and category == 'visual'")
    for test in ("gain", "specificity", "stripped"):
        ant, bee = texts[texts["class_name"] == "ant"][test].mean(), texts[texts["class_name"] == "bee"][test].mean()
        row = table.loc[(test, "visual")]
        assert row["mean"] == pytest.approx((ant + bee) / 2)
        assert (row["n"], row["classes"]) == (3, 2)
        assert row[["low", "high", "p"]].isna().all()  # of two classes
    # One class: a mean, but neither an interval nor a p-value. No class: nothing.
    cow = table.loc[("gain", "spurious")]
    assert cow["mean"] == pytest.approx(study.tables["descriptions"].loc[4, "gain"])
    assert cow[["low", "high", "p", "p_holm"]].isna().all()
    assert table.loc[("gain", "non_visual")][["mean", "low", "p"]].isna().all()


def test_what_few_classes_add_is_not_tested() -> None:
    """Two classes gave intervals of 25 for differences of cosines, which none can be."""
    values = [0.01, 0.02, 0.04, 0.03, 0.05]
    few, enough = estimate(values[:-1], fewest=FEWEST_CLASSES), estimate(values, fewest=FEWEST_CLASSES)
    assert few["mean"] == pytest.approx(0.025)
    assert all(math.isnan(value) for name, value in few.items() if name != "mean")
    assert -0.1 < enough["low"] < enough["mean"] < enough["high"] < 0.2
    # A share cannot change by more than all.
    ends = estimate([0.9, -0.2], bounds=DIFFERENCE)
    assert (ends["low"], ends["high"]) == (-1.0, 1.0)


def test_contrast_by_hand(study: Study) -> None:
    """Within class and system, a category's clauses against the other judged ones, averaged over the systems, then classes."""
    c = study.tables["clauses"]
    about = matched(c, about_class(c))
    added = {(r.system, r.class_name, r.clause): value for r, value in zip(c.itertuples(), about, strict=True)}
    # Only the aligned ant and the base bee have both visual and other judged clauses; the bee's unsure one is left out.
    ant = [added["aligned", "ant", f"visual {x}."] for x in ("red legs", "six legs", "red head")]
    differences = [
        np.mean(ant) - added["aligned", "ant", "habitat in forests."],
        added["base", "bee", "visual red stripes."] - added["base", "bee", "habitat in hives."],
    ]
    table = study.tables["contributions"].set_index(["test", "category"])
    assert table.loc[("contrast", "visual"), "mean"] == pytest.approx(np.mean(differences))
    assert table.loc[("contrast", "habitat"), "mean"] == pytest.approx(-np.mean(differences))
    assert table.loc[("contrast", "visual"), "classes"] == 2


def test_zero_shot_by_a_loop(study: Study) -> None:
    bank, vlm = hash_bank(), HashVLM()
    images = bank.embeddings[bank.rows("heldout")]
    labels = bank.labels[bank.rows("heldout")].tolist()

    def accuracy(vectors: Tensor, classes: Sequence[int]) -> float:
        nearest = (images @ vectors.T).argmax(dim=1).tolist()
        pairs = list(zip(nearest, labels, strict=True))
        return float(np.mean([np.mean([n == k for n, label in pairs if label == k]) for k in classes]))

    templates = vlm.encode_texts([TEMPLATE.replace("{}", name) for name in NAMES])
    table = study.tables["zero_shot"].set_index("texts")
    assert list(table.index) == ["template", "all", "visual", "spurious"]
    assert table.loc["template", "mean"] == pytest.approx(accuracy(templates, range(4)))
    for kind, records, covered in (("all", ALIGNED, [0, 1, 2]), ("visual", ALIGNED[:3], [0, 1])):
        vectors = templates.clone()
        for k in covered:
            vectors[k] = normalize(vlm.encode_texts([r.text for r in records if r.class_id == k]).mean(dim=0), dim=0)
        row = table.loc[kind]
        assert row["mean"] == pytest.approx(accuracy(vectors, covered))
        assert row["gain_mean"] == pytest.approx(accuracy(vectors, covered) - accuracy(templates, covered))
        assert (row["classes"], row["n"]) == (len(covered), len(records))
    assert np.isnan(table.loc["spurious", "low"])  # one class


def test_controls_are_the_texts_they_say(study: Study) -> None:
    bank, vlm = hash_bank(), HashVLM()
    table = study.tables["controls"].set_index(["system", "images"])
    for images, prototypes in (("reward", bank.prototypes), ("heldout", bank.heldout_prototypes)):
        own = (vlm.encode_texts([r.text for r in ALIGNED]) * prototypes[[r.class_id for r in ALIGNED]]).sum(dim=1)
        ant, bee, cow = own[:2].mean(), own[2:4].mean(), own[4]
        assert table.loc[("aligned", images), "mean"] == pytest.approx(float(ant + bee + cow) / 3, abs=1e-6)
        names = (vlm.encode_texts(NAMES[:3]) * prototypes[:3]).sum(dim=1)  # of described classes only
        assert table.loc[("class_name", images), "mean"] == pytest.approx(float(names.mean()), abs=1e-6)
        template = table.loc[
            ("template", images)
        ]  # differences are paired by class, so their mean is that of the means
        assert template["aligned_minus_mean"] == pytest.approx(
            table.loc[("aligned", images), "mean"] - template["mean"]
        )
    assert np.isnan(table.loc[("aligned", "heldout"), "aligned_minus_mean"])
    assert table["n"].xs("heldout", level="images").to_dict() == {
        "class_name": 3,
        "template": 3,
        "random_words": 3 * 5,  # as many a class as there are descriptions, 8 at most
        "base": 5,
        "best_of_n": 3,  # one a class
        "scrambled": 5,
        "swapped": 5,
        "renamed": 5,
        "aligned": 5,
    }


def test_controls_without_names_are_read_without_them(study: Study) -> None:
    vlm, prototypes = HashVLM(), hash_bank().heldout_prototypes
    table = study.tables["controls_nameless"].set_index(["system", "images"])
    stand_in = (vlm.encode_texts(["it"]) * prototypes[:3]).sum(dim=1)  # all that is left of a bare name
    assert table.loc[("class_name", "heldout"), "mean"] == pytest.approx(float(stand_in.mean()), abs=1e-6)
    read = [strip_name(r.text, NAMES[r.class_id]) for r in ALIGNED]
    own = (vlm.encode_texts(read) * prototypes[[r.class_id for r in ALIGNED]]).sum(dim=1)
    ant, bee, cow = own[:2].mean(), own[2:4].mean(), own[4]
    assert table.loc[("aligned", "heldout"), "mean"] == pytest.approx(float(ant + bee + cow) / 3, abs=1e-6)
    written = study.tables["controls"].set_index(["system", "images"])
    assert (table[["n", "distinct"]] == written[["n", "distinct"]]).all(axis=None)


def test_summary_speaks_of_the_study(study: Study) -> None:
    summary = study.summary
    assert (summary["judge"], summary["descriptions"], summary["base_descriptions"]) == ("first-word", 5, 5)
    assert (summary["classes"], summary["classes_of_dataset"]) == (3, 4)
    assert summary["meta"] == {"vlm": "hash", "policy": "runs/x"}
    assert summary["monitors"]["hub_score"] == {"first": 0.1, "last": 0.2}
    assert summary["verdict"][0].startswith("No statement about preference: 2 classes are too few")
    assert summary["verdict"][1].startswith("As written, the policy's texts are not clearly nearer to or further from")
    hub = "The monitor hub_score rose from 0.100 to 0.200 in training: one text fits many classes (hub texts)."
    assert hub in summary["warnings"]
    json.dumps(summary, allow_nan=False)


def test_a_collapse_is_called_one_and_ends_every_preference() -> None:
    """The policy keeps one word of each text: with the table as it may be, nothing is preferred."""
    study = by_hand([replace(record, text=record.text.split()[0]) for record in ALIGNED])
    assert study.summary["collapse"][0].startswith("shrank to 1.0 words, ")
    assert study.summary["verdict"][0].startswith("Collapse: the policy's texts shrank to 1.0 words, ")
    assert not study.tables["preference"]["preferred"].any()


def test_what_pleases_whatever_the_class_is_no_contribution() -> None:
    """Images with a common direction: clauses that go that way add as much for other classes, and say nothing of theirs."""
    rng = np.random.default_rng(0)
    classes, kinds = np.repeat(np.arange(20), 8), np.tile(["visual", "habitat"], 80)
    common = np.where(kinds == "visual", 0.05, 0.0)
    clauses = pd.DataFrame(
        {
            "system": "aligned", "description": np.arange(160), "class_id": classes, "category": kinds,
            "clause": "it has four legs",
            "added": common + 0.01 * rng.normal(size=160), "added_elsewhere": common + 0.01 * rng.normal(size=160), "tags": "",
            "clause_drop": np.nan, "about_swapped": np.nan, "about_scrambled": np.nan,
        }
    )  # fmt: skip
    texts = clauses[["system", "class_id", "category"]].assign(
        gain=0.0, specificity=0.0, stripped=0.0, shuffle_drop=0.0
    )
    table = contributions(texts, clauses).set_index(["test", "category"])
    assert table.loc[("general", "visual"), "low"] > 0.03
    assert table.loc[("contrast", "visual"), "low"] < 0 < table.loc[("contrast", "visual"), "high"]
    assert abs(table.loc[("contrast", "visual"), "mean"]) < 0.01


def test_longer_and_later_clauses_are_matched_with_shorter_ones() -> None:
    """What comes from length and place alone is taken out exactly; what differs between the categories stays."""
    words = ["it", "it has", "it has legs", "it has four legs"] * 6
    clauses = pd.DataFrame(
        {
            "system": "aligned", "description": np.repeat(np.arange(12), 2), "class_id": np.repeat(np.arange(3), 8),
            "category": ["visual"] * 12 + ["habitat"] * 12, "clause": words,
        }
    )  # fmt: skip
    length, place = clauses["clause"].str.split().str.len().map(np.log), np.tile([0.0, 1.0], 12)
    values = 0.3 * (clauses["category"] == "visual") + 0.2 * length - 0.1 * place
    level = matched(clauses, values)
    assert np.ptp(level[:12]) == pytest.approx(0, abs=1e-9)
    assert level[:12].mean() - level[12:].mean() == pytest.approx(0.3)


def test_equal_seeds_give_equal_studies(study: Study) -> None:
    first, second, other = by_hand(), by_hand(), by_hand(seed=1)
    assert first.summary == second.summary
    for name, table in first.tables.items():
        pd.testing.assert_frame_equal(table, second.tables[name])
    assert not first.tables["controls"].equals(other.tables["controls"])  # random words, swapped classes
    drawn = ["about_swapped", "about_scrambled"]  # nothing else about clauses is random
    pd.testing.assert_frame_equal(*(own.tables["clauses"].drop(columns=drawn) for own in (first, other)))


def test_order_of_the_descriptions_changes_no_share() -> None:
    first, turned = by_hand(), by_hand(ALIGNED[::-1], BASE[::-1])
    for table in ("shares", "share_change", "contributions", "preference"):
        pd.testing.assert_frame_equal(first.tables[table], turned.tables[table])


# ---------------------------------------------------------------- without base, with odd input


def test_without_base_nothing_is_said_about_preference() -> None:
    study = by_hand(base=())
    assert study.summary["verdict"] == [NO_BASE]
    assert study.tables["share_change"].empty
    preference = study.tables["preference"]
    assert preference["change_mean"].isna().all()
    assert not preference["preferred"].any()
    assert preference["contribution_mean"].notna().any()  # what clauses add is still known
    assert set(study.tables["descriptions"]["system"]) == {"aligned"}
    assert "learning_curve" not in study.tables
    assert "base" not in study.summary
    assert "There are no texts of the untrained policy to compare with." in study.summary["warnings"]


@pytest.mark.parametrize(("records", "found"), [(ALIGNED[:2], 1), ([], 0)])
def test_one_class_is_refused(records: list[Description], found: int) -> None:
    reason = "intervals and tests are over classes and need two; describe more classes."
    message = f"the descriptions are about {found} class: {reason}"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        by_hand(records)


def test_texts_of_nothing_but_punctuation_are_analysed() -> None:
    odd = [described(NAMES, name, text) for name, text in (("ant", "..."), ("bee", "-"), ("cow", "\u3000!\n"))]
    study = by_hand(odd, base=())
    assert study.tables["clauses"]["clause"].tolist() == ["...", "-", "!"]
    assert study.tables["clauses"]["added"].tolist() == [0.0, 0.0, 0.0]  # framed, nothing is left but the name
    assert study.summary["unsure"] == 1.0


def test_judgements_find_back_to_their_texts() -> None:
    judged = judge_all(FirstWordJudge(), {"aligned": ALIGNED, "base": BASE}, progress=False)
    assert [part.system for part in judged] == ["aligned", "base"]
    for part, records in zip(judged, (ALIGNED, BASE), strict=True):
        assert part.class_ids == [r.class_id for r in records]
        for record, clauses in zip(records, part.clauses, strict=True):
            expected = [word for word in re.findall(r"\w+", record.text) if word in CATEGORIES]
            assert [j.category for j in clauses] == (expected or [None])


# ---------------------------------------------------------------- warnings


def test_other_questions_are_warned_about() -> None:
    def asked(base: list[str], aligned: list[str]) -> pd.DataFrame:
        return pd.DataFrame(
            {"system": ["base"] * len(base) + ["aligned"] * len(aligned), "question": [*base, *aligned]}
        )

    assert question_warnings(asked(["a", "b"], ["a", "b", "a", "b"])) == []
    (warning,) = question_warnings(asked(["a", "b"], ["b", "b"]))
    assert "50% of the texts" in warning
    assert question_warnings(asked([], ["b"])) == []


def test_base_of_other_classes_is_refused() -> None:
    with pytest.raises(UserError, match=r"share 1 class\(es\) with the descriptions: a comparison needs two"):
        by_hand(ALIGNED, base=[r for r in BASE if r.class_id == ALIGNED[0].class_id])


def texts_of(categories: Sequence[str], words: int, system: str = "aligned") -> pd.DataFrame:
    return pd.DataFrame({"system": system, "category": categories, "text": "w " * words})


def test_signs_of_reward_hacking() -> None:
    sound = pd.concat([texts_of(["visual"] * 5 + ["spurious"] * 5, 5), texts_of(["visual"] * 3, 10, "base")])
    unmoved = {"hub_score": {"first": 0.1, "last": 0.12}, "duplicate_rate": {"first": 0.9, "last": 0.2}}
    assert hacking_warnings(sound, unmoved) == []  # each of these at or below its limit
    hacked = texts_of(["spurious"] * 4 + ["name_echo"] * 2 + ["visual"] * 4, 4)
    monitors = {
        name: {"first": 0.0, "last": 0.25} for name in ("duplicate_rate", "boilerplate_rate", "truncated_share")
    }
    found = hacking_warnings(hacked, monitors, unsure=0.4)
    assert len(found) == 5
    assert found[0].startswith(
        "60% of the descriptions say nothing specific to their class (spurious, or its name again)"
    )
    assert found[1] == "The judge is unsure about 40% of the clauses: read shares with care."
    assert found[2] == "The monitor duplicate_rate rose from 0.000 to 0.250 in training: texts repeat each other."
    # Monitors that are not numbers say nothing.
    assert hacking_warnings(sound, {"hub_score": {"first": 0.0, "last": float("nan")}}) == []


def testfirst_and_last_monitors_skip_other_rows() -> None:
    rows = [
        {"loss": 1.0},
        {"monitors/hub_score": 0.1, "reward": 2.0},
        {"monitors/hub_score": 0.3},
        {"train_runtime": 9.0},
    ]
    assert first_and_last(rows) == {"hub_score": {"first": 0.1, "last": 0.3}}
    assert first_and_last([]) == {}


# ---------------------------------------------------------------- files


def test_what_is_written_is_read_back(study: Study, tmp_path: Path) -> None:
    study.write(tmp_path / "deep" / "out")
    read = Study.read(tmp_path / "deep" / "out")
    assert read.summary == study.summary
    assert list(read.tables) == study.summary["tables"]
    for name, table in study.tables.items():
        pd.testing.assert_frame_equal(read.tables[name], table)
        csv = pd.read_csv(tmp_path / "deep" / "out" / "tables" / f"{name}.csv")
        assert (len(csv), list(csv)) == (len(table), list(table))


def test_study_without_base_is_read_back(tmp_path: Path) -> None:
    study = by_hand(base=())
    study.write(tmp_path)
    read = Study.read(tmp_path)
    assert read.summary == study.summary
    assert list(read.tables["share_change"]) == list(study.tables["share_change"])
    assert verdict(read.tables["preference"]) == [NO_BASE]


def test_a_folder_of_ex2_study_holds_its_analysis_below(tmp_path: Path) -> None:
    study = by_hand(base=())
    study.write(tmp_path / "analysis")
    assert Study.read(tmp_path).summary == study.summary
    assert analysis_in(tmp_path) == analysis_in(tmp_path / "analysis") == tmp_path / "analysis"
    study.write(tmp_path)
    assert analysis_in(tmp_path) == tmp_path


def test_folder_without_analysis_is_refused(tmp_path: Path) -> None:
    message = f"{tmp_path} holds no analysis: summary.json is missing; `ex2 analyze` writes it."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        Study.read(tmp_path)
    with pytest.raises(UserError, match=r"nowhere holds no analysis: summary.json is missing"):
        Study.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "summary.json").write_text('{"tables": ["clauses"'),
        lambda out: (out / "summary.json").write_text("{}"),
        lambda out: (out / "summary.json").write_text("[]"),
        lambda out: (out / "summary.json").write_text('{"tables": null}'),
        lambda out: (out / "summary.json").write_bytes(b"\xff\xfe"),
        lambda out: (out / "tables" / "clauses.parquet").unlink(),
        lambda out: (out / "tables" / "clauses.parquet").write_bytes(b"PAR1"),
        lambda out: shutil.rmtree(out / "tables"),
        lambda out: ((out / "tables" / "shares.parquet").unlink(), (out / "tables" / "shares.parquet").mkdir()),
    ],
    ids=[
        "cut off",
        "without tables",
        "a list",
        "null",
        "no text",
        "table missing",
        "table cut off",
        "tables missing",
        "folder",
    ],
)
def test_damaged_folder_is_refused(study: Study, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    study.write(tmp_path)
    damage(tmp_path)
    message = rf"^{re.escape(str(tmp_path))} holds a damaged analysis \(.+\); run `ex2 analyze` again\.$"
    with pytest.raises(UserError, match=re.compile(message, re.DOTALL)):
        Study.read(tmp_path)


def test_a_summary_that_is_no_json_is_not_written(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(study, summary={"value": float("nan")}).write(tmp_path)
    assert not (tmp_path / "summary.json").exists()
