"""The direct probe: its numbers by hand, and what it says to a verdict."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ex2.analysis.contribution import Similarity
from ex2.analysis.pipeline import analyse
from ex2.analysis.probe import READINGS, above, answer_to, format_probe, leaders, outcome, probe_tables
from ex2.analysis.report import write_report
from ex2.analysis.study import Study
from ex2.base.errors import UserError
from ex2.data import load_images
from ex2.scoring.bank import ImageBank, build_bank
from ex2.scoring.scorer import TextScorer
from ex2.stats.intervals import mean_interval
from ex2.texts.categories import CATEGORIES, Judge
from ex2.texts.descriptions import Description
from ex2.texts.probe import KINDS, ProbeSentence
from ex2.vlm import VLM

# ---------------------------------------------------------------- numbers by hand


class HashVLM:
    """A random direction for every text, always the same one."""

    name, dim, logit_scale, max_text_tokens = "hash", 8, 100.0, 77
    device = torch.device("cpu")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") for text in texts]
        return normalize(
            torch.stack([torch.randn(self.dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds]), dim=1
        )


BANK_NAMES = ("ant", "bee", "cow", "dog")
# Of the third kind twice as many, so that a class's mean is one of kinds and not of sentences; nothing about the dog.
HASHED = [
    ProbeSentence(name, kind, f"It is of {kind} {i} number {n}.")
    for n, name in enumerate(BANK_NAMES[:3])
    for kind, count in (("visual", 1), ("use", 1), ("chatter", 2))
    for i in range(count)
]


@pytest.fixture(scope="module")
def scorer() -> TextScorer:
    labels = torch.arange(4).repeat_interleave(6)
    vectors = torch.randn(len(labels), HashVLM.dim, generator=torch.Generator().manual_seed(0))
    ids = tuple(map(str, range(len(labels))))
    bank = ImageBank(BANK_NAMES, normalize(vectors, dim=1), labels, torch.arange(24) % 2, ids, "hash", "0", "memory")
    return TextScorer(HashVLM(), bank)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tables(scorer: TextScorer) -> dict[str, pd.DataFrame]:
    return probe_tables(HASHED, Similarity(scorer), scorer)


@pytest.fixture(scope="module")
def by_loop(scorer: TextScorer) -> dict[str, dict[tuple[str, str], float]]:
    """For each reading, class and kind the mean cosine with the held-out images, one sentence after the other."""
    bank, vlm = scorer.bank, HashVLM()

    def cosine(text: str, name: str) -> float:
        own = bank.embeddings[(bank.labels == BANK_NAMES.index(name)) & (bank.split_ids == 1)]
        return float((own @ vlm.encode_texts([text])[0]).mean())

    found: dict[str, dict[tuple[str, str], list[float]]] = {reading: {} for reading in READINGS}
    for s in HASHED:
        key = (s.class_name, s.kind)
        found["nameless"].setdefault(key, []).append(cosine(s.text, s.class_name))
        added = cosine(f"{s.class_name}: {s.text}", s.class_name) - cosine(f"{s.class_name}.", s.class_name)
        found["framed"].setdefault(key, []).append(added)
    return {reading: {key: float(np.mean(own)) for key, own in values.items()} for reading, values in found.items()}


def test_means_and_what_is_centred_within_class(
    tables: dict[str, pd.DataFrame], by_loop: dict[str, dict[tuple[str, str], float]]
) -> None:
    probe = tables["probe"].set_index("kind")
    assert list(probe.index) == ["visual", "use", "chatter"]
    assert probe["category"].tolist() == ["visual", "non_visual", "spurious"]
    assert probe["n"].tolist() == [3, 3, 6]
    assert set(probe["classes"]) == {3}
    for reading, score in by_loop.items():
        for kind in probe.index:
            own = [score[name, kind] for name in BANK_NAMES[:3]]
            means = [np.mean([score[name, other] for other in probe.index]) for name in BANK_NAMES[:3]]
            assert probe.loc[kind, f"{reading}_mean"] == pytest.approx(np.mean(own), abs=1e-6)
            centred = np.subtract(own, means)
            assert probe.loc[kind, f"{reading}_centred_mean"] == pytest.approx(centred.mean(), abs=1e-6)
            assert (
                probe.loc[kind, f"{reading}_centred_low"] < centred.mean() < probe.loc[kind, f"{reading}_centred_high"]
            )
        assert probe[f"{reading}_centred_mean"].sum() == pytest.approx(0, abs=1e-6)


def test_differences_are_paired_by_class(
    tables: dict[str, pd.DataFrame], by_loop: dict[str, dict[tuple[str, str], float]]
) -> None:
    rows = tables["probe_differences"].to_dict("records")
    pairs = [("visual", "use"), ("visual", "chatter"), ("use", "chatter")]
    assert [(r["reading"], r["kind"], r["other"]) for r in rows] == [(x, *pair) for x in READINGS for pair in pairs]
    for row in rows:
        score = by_loop[row["reading"]]
        values = [score[name, row["kind"]] - score[name, row["other"]] for name in BANK_NAMES[:3]]
        assert row["mean"] == pytest.approx(np.mean(values), abs=1e-6)
        # Three pairs of kinds at once.
        ends = mean_interval(values, level=1 - 0.05 / 3)
        assert (row["low"], row["high"]) == pytest.approx((ends.low, ends.high), abs=1e-5, rel=1e-5)
        assert row["classes"] == 3


def test_top1_by_a_loop(tables: dict[str, pd.DataFrame], scorer: TextScorer) -> None:
    bank, vlm = scorer.bank, HashVLM()
    for kind, row in tables["probe"].set_index("kind").iterrows():
        vectors = vlm.encode_texts([f"a photo of a {name}" for name in BANK_NAMES])  # the dog keeps its template
        for i, name in enumerate(BANK_NAMES[:3]):
            own = [s.text for s in HASHED if (s.class_name, s.kind) == (name, kind)]
            vectors[i] = normalize(vlm.encode_texts(own).mean(dim=0), dim=0)
        right = [
            float(
                ((bank.embeddings[(bank.labels == i) & (bank.split_ids == 1)] @ vectors.T).argmax(dim=1) == i)
                .float()
                .mean()
            )
            for i in range(3)
        ]
        assert row["top1_mean"] == pytest.approx(np.mean(right))


def test_tables_are_equal_in_any_order(tables: dict[str, pd.DataFrame], scorer: TextScorer) -> None:
    again = probe_tables(HASHED[::-1], Similarity(scorer), scorer)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table, again[name])


def test_printed_table_has_a_line_a_kind(tables: dict[str, pd.DataFrame]) -> None:
    head, *lines = format_probe(tables["probe"]).splitlines()
    assert len({len(line) for line in (head, *lines)}) == 1
    assert [line.split("  ")[0] for line in lines] == ["visual", "use", "page chatter"]
    for line, row in zip(lines, tables["probe"].to_dict("records"), strict=True):
        shown = [float(x) for x in re.findall(r"[-+]?\d\.\d+", line)]
        ends = [row[f"{r}_centred_{e}"] for r in READINGS for e in ("mean", "low", "high")]
        assert shown == pytest.approx([*ends, row["top1_mean"]], abs=5.01e-4)


# ---------------------------------------------------------------- what it says to a verdict

ALL = list(KINDS)


def test_above_takes_the_whole_interval() -> None:
    rows = [
        ("framed", "visual", "habitat", 0.01, 0.05),  # above
        ("framed", "visual", "use", 0.0, 0.05),  # touches 0
        ("framed", "habitat", "use", -0.03, 0.04),  # open
        ("framed", "use", "chatter", -0.05, -0.01),  # the other way round
        ("framed", "habitat", "chatter", float("nan"), float("nan")),
        ("nameless", "visual", "use", 0.02, 0.05),  # another reading
    ]
    table = pd.DataFrame(rows, columns=["reading", "kind", "other", "low", "high"])
    assert above(table) == {("visual", "habitat"), ("chatter", "use")}
    assert above(table, "nameless") == {("visual", "use")}


def order(*groups: str) -> set[tuple[str, str]]:
    """Every kind of a group is above every kind of the later ones; within a group, none is."""
    split = [group.split() for group in groups]
    return {
        (kind, other) for i, group in enumerate(split) for later in split[i + 1 :] for kind in group for other in later
    }


@pytest.mark.parametrize(
    ("preferred", "found", "wanted"),
    [
        ([], order("visual", "habitat use kind chatter"), "undecided"),
        ([], set(), "undecided"),
        (["visual"], order("visual", "habitat use kind", "chatter"), "agrees"),
        (["visual"], order("visual habitat", "use kind chatter"), "open"),  # as good as habitat
        (["visual"], set(), "open"),
        (["habitat"], order("visual", "habitat use kind", "chatter"), "contradicts"),
        (["kind"], order("kind", "visual habitat use chatter"), "agrees"),
        (["kind"], order("visual kind", "habitat use chatter"), "open"),
        (["non_visual"], order("visual", "kind use", "habitat chatter"), "contradicts"),
        # Each of two categories must lead those that are not preferred; their own order does not matter.
        (["visual", "habitat"], order("habitat", "visual", "use kind chatter"), "agrees"),
        (["visual", "habitat"], order("habitat", "visual use kind", "chatter"), "open"),
        (["visual", "habitat"], order("habitat", "use", "visual kind chatter"), "contradicts"),
        (["spurious"], order("visual habitat use kind", "chatter"), "contradicts"),
        (list(CATEGORIES), order("visual", "habitat use kind chatter"), "open"),
    ],
)  # fmt: skip
def test_outcome(preferred: list[str], found: set[tuple[str, str]], wanted: str) -> None:
    assert outcome(preferred, ALL, found) == wanted
    assert answer_to(preferred, ALL, found).outcome == wanted


def test_a_probe_without_a_kind_says_nothing_about_it() -> None:
    assert outcome(["spurious"], ["visual", "habitat"], {("visual", "habitat")}) == "open"


def test_numbers_to_outcome_by_hand() -> None:
    """Visual minus use is +0.03 in each of three classes, visual minus habitat changes its sign: a lead over one only."""
    scores = {"visual": [0.30, 0.20, 0.40], "habitat": [0.25, 0.28, 0.35], "use": [0.27, 0.17, 0.37]}
    rows = []
    for kind, other in (("visual", "habitat"), ("visual", "use"), ("habitat", "use")):
        values = np.subtract(scores[kind], scores[other])
        rows.append(("framed", kind, other, values.min(), values.max()))
    found = above(pd.DataFrame(rows, columns=["reading", "kind", "other", "low", "high"]))
    # habitat - use: -0.02, +0.11, -0.02.
    assert found == {("visual", "use")}
    assert outcome(["visual"], list(scores), found) == "open"
    assert outcome(["non_visual"], list(scores), found) == "contradicts"
    assert leaders(list(scores), found) == (["visual", "habitat"], [])


def test_sentences() -> None:
    found = order("visual", "habitat use kind", "chatter")
    rest = "habitat, use, kind of thing and page chatter"
    assert answer_to([], ALL, found).sentence == (
        f"The policy's texts leave it undecided; asked directly, the VLM scores visual above {rest}."
    )
    assert answer_to([], ALL, set()).sentence == (
        "The policy's texts leave it undecided; asked directly, the VLM puts no kind of sentence above all others."
    )
    assert answer_to(["visual"], ALL, found).sentence == (
        f"The direct probe agrees: asked directly, the VLM scores visual above {rest}."
    )
    assert answer_to(["habitat", "non_visual"], ALL, found).sentence == (
        "The direct probe contradicts the verdict: asked directly, the VLM scores visual above habitat and visual above use."
    )
    assert answer_to(["visual"], ALL, order("visual kind", "habitat use chatter")).sentence == (
        "The direct probe neither confirms nor contradicts the verdict: asked directly, the VLM scores visual and kind of thing "
        "above habitat, use and page chatter."
    )


# ---------------------------------------------------------------- in a study, with the embedded VLM and judge

# One class is one planted class; the policy of these studies always moves from all kinds to habitat.
FACTS = {
    "banana": ("It has a smooth yellow skin.", "It grows on plantations in the tropics.", "It is rich in potassium."),
    "butterfly": ("It has four colourful wings.", "It lives in meadows and gardens.", "It drinks nectar."),
    "camel": ("It has two tall humps.", "It lives in the deserts of Arabia.", "It carries heavy loads for people."),
    "crab": ("It has two large claws.", "It lives on sandy beaches.", "It eats worms and algae."),
    "elephant": ("It has a long grey trunk.", "It lives on the African savanna.", "It never forgets a friend."),
    "owl": ("It has round yellow eyes.", "It is found in old barns and forests.", "It hunts mice at night."),
    "penguin": ("It has a white belly.", "It lives on the coasts of Antarctica.", "It feeds on fish and krill."),
    "strawberry": ("It is red and dotted with seeds.", "It grows in fields and gardens.", "It tastes sweet."),
}


def probe_of(visual: int, habitat: int) -> list[ProbeSentence]:
    """The facts as a probe: the positions of those that are called visual and habitat."""
    return [
        ProbeSentence(name, kind, facts[place])
        for name, facts in FACTS.items()
        for kind, place in (("visual", visual), ("habitat", habitat), ("use", 2))
    ]


@pytest.fixture(scope="module")
def habitat_study(pictogram_vlm: VLM) -> Callable[[Sequence[ProbeSentence]], Study]:
    from ex2.analysis.judges import load_judge

    judge: Judge = load_judge("local")
    bank = build_bank(pictogram_vlm, load_images("planted:habitat"), progress=False)
    names = bank.class_names

    def said(name: str, text: str) -> Description:
        return Description("memory", names.index(name), name, "What is it?", text, "hand", 0, {})

    def study(probe: Sequence[ProbeSentence]) -> Study:
        return analyse(
            [said(name, facts[1]) for name, facts in FACTS.items()],
            TextScorer(pictogram_vlm, bank),
            judge,
            # One class has a fact more: were all classes alike, nothing could be told of others.
            base=[said(name, fact) for name, facts in FACTS.items() for fact in (*facts, *facts[: name == "owl"])],
            probe=probe,
            progress=False,
        )

    return study


def test_a_planted_preference_is_what_the_probe_finds(
    habitat_study: Callable[[Sequence[ProbeSentence]], Study], tmp_path: Path
) -> None:
    study = habitat_study(probe_of(0, 1))
    assert any(sentence.startswith("Preferred: habitat.") for sentence in study.summary["verdict"])
    assert study.summary["probe"] == {
        "outcome": "agrees",
        "sentence": "The direct probe agrees: asked directly, the VLM scores habitat above visual and use.",
        "reading": "framed",
    }
    assert not any("probe" in warning for warning in study.summary["warnings"])
    assert {"probe", "probe_differences"} <= set(study.summary["tables"])

    study.write(tmp_path)
    page = write_report(Study.read(tmp_path), tmp_path).read_text(encoding="utf-8")
    assert page.count(study.summary["probe"]["sentence"]) == 2  # beside the verdict and beside the table
    for kind, spoken in (("habitat", "visual, use"), ("visual", "–")):
        cells = page[page.index(f'<th scope="row">{kind}</th>') :].split("</tr>")[0]
        assert cells.count(f">{spoken}</td>") == 2  # what it is above, in both readings


def test_a_probe_that_says_otherwise_is_a_warning(habitat_study: Callable[[Sequence[ProbeSentence]], Study]) -> None:
    """The facts about habitat under another label: the verdict stays, and the reader is warned."""
    study = habitat_study(probe_of(1, 0))
    assert any(sentence.startswith("Preferred: habitat.") for sentence in study.summary["verdict"])
    assert study.summary["probe"]["outcome"] == "contradicts"
    warning = "The direct probe contradicts the verdict: asked directly, the VLM scores visual above habitat."
    assert study.summary["warnings"].count(warning) == 1


def test_without_a_probe_nothing_is_said_of_it(
    habitat_study: Callable[[Sequence[ProbeSentence]], Study], tmp_path: Path
) -> None:
    study = habitat_study([])
    assert "probe" not in study.summary
    assert not [name for name in study.tables if name.startswith("probe")]
    page = write_report(study, tmp_path).read_text(encoding="utf-8")
    assert '<section id="attributes"' in page
    assert "probe" not in page.casefold()


def test_a_probe_that_compares_nothing_is_refused_before_anything_is_judged(scorer: TextScorer) -> None:
    with pytest.raises(UserError, match="class 'owl' is not in the dataset"):
        analyse([], scorer, None, probe=[ProbeSentence("owl", "use", "It hunts.")])  # type: ignore[arg-type]
