"""Probe sentences: those that come with EX2, and files of one's own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest

from ex2.base.errors import UserError
from ex2.data import load_images
from ex2.texts.categories import CATEGORIES
from ex2.texts.probe import KINDS, SPOKEN, ProbeSentence, check_probe, read_probe, shipped_probe

ROOT = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------- the sentences that come with EX2


@pytest.fixture(scope="module")
def shipped() -> list[ProbeSentence]:
    return shipped_probe("pictograms", load_images("pictograms").class_names)


def test_every_pictogram_class_has_three_sentences_of_each_kind(shipped: list[ProbeSentence]) -> None:
    counts = Counter((sentence.class_name, sentence.kind) for sentence in shipped)
    assert counts == {(name, kind): 3 for name in load_images("pictograms").class_names for kind in KINDS}
    assert {len(sentence.text.split()) for sentence in shipped} <= set(range(7, 15))
    words = pd.Series([len(s.text.split()) for s in shipped]).groupby([s.kind for s in shipped]).mean()
    assert words.max() - words.min() < 1.5  # no kind is told apart by its length


def test_page_chatter_knows_no_class(shipped: list[ProbeSentence]) -> None:
    """Each chatter sentence stands with many classes; no other sentence stands with more than a few."""
    classes = {
        (kind, text): {s.class_name for s in shipped if (s.kind, s.text) == (kind, text)}
        for kind, text in {(s.kind, s.text) for s in shipped}
    }
    assert min(len(names) for (kind, _), names in classes.items() if kind == "chatter") >= 10
    assert max(len(names) for (kind, _), names in classes.items() if kind != "chatter") <= 2


@pytest.mark.parametrize("seen", ["tools/build_pictograms/descriptions.json", "ex2/assets/planted/sentences.jsonl"])
def test_no_sentence_is_one_that_the_vlm_or_the_controls_were_made_with(
    shipped: list[ProbeSentence], seen: str
) -> None:
    text = " ".join((ROOT / seen).read_text(encoding="utf-8").casefold().split())
    assert len(text) > 1000
    assert [s.text for s in shipped if s.text.casefold().rstrip(".") in text] == []


def test_other_datasets_have_no_probe() -> None:
    assert shipped_probe("planted:habitat", ["ant"]) == []
    assert shipped_probe("folder:pictograms", ["ant"]) == []
    assert shipped_probe("../probe/pictograms", ["ant"]) == []


def test_kinds_belong_to_categories() -> None:
    assert set(KINDS.values()) == set(CATEGORIES) - {"name_echo"}
    assert KINDS.keys() == SPOKEN.keys()


# ---------------------------------------------------------------- files

NAMES = ("red fox", "owl", "crab")
ROWS = [
    {"class_name": name, "kind": kind, "text": f"It is {kind} thing {i}."}
    for name in NAMES
    for i, kind in enumerate(("visual", "habitat"))
]


def write(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_a_file_is_read_in_its_order(tmp_path: Path) -> None:
    path = write(tmp_path / "probe.jsonl", ["", *({**row, "note": 1} for row in ROWS)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_probe(path, NAMES) == [ProbeSentence(**row) for row in ROWS]
    assert ProbeSentence("owl", "use", " It \n hunts ").text == "It hunts"


REFUSED = [
    ({**ROWS[0], "kind": "looks"}, 7, "kind 'looks' is none of visual, habitat, use, kind, chatter."),
    ({**ROWS[0], "kind": "visul"}, 7, "Did you mean visual?"),
    ({**ROWS[0], "class_name": "red foxx"}, 7, "class 'red foxx' is not in the dataset. Did you mean red fox?"),
    ({**ROWS[0], "text": " \t"}, 7, "text is empty"),
    ({**ROWS[0], "text": None}, 7, "text must be a string, found None"),
    ({**ROWS[0], "text": "The red fox has a bushy tail."}, 7, "holds the name of its class 'red fox', or a part of it"),
    ({**ROWS[0], "text": "It has red fur."}, 7, "(without: 'It has it fur.')"),
    ({**ROWS[0], "text": "Foxes have bushy tails."}, 7, "holds the name"),
    ({"class_name": "owl", "kind": "visual"}, 7, "missing text; a probe sentence needs class_name, kind, text"),
    (["owl"], 7, "expected a JSON object, found list"),
    ('{"class_name": "owl"', 7, "broken JSON"),
    ({**ROWS[0], "kind": "use"}, None, "class 'owl' has no sentence of the kind 'use'"),
]


@pytest.mark.parametrize(("row", "line", "words"), REFUSED, ids=[words[:30] for _, _, words in REFUSED])
def test_bad_lines_are_refused_by_number(tmp_path: Path, row: object, line: int | None, words: str) -> None:
    path = write(tmp_path / "probe.jsonl", [*ROWS, row])
    with pytest.raises(UserError) as refused:
        read_probe(path, NAMES)
    assert str(refused.value).startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_compare_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such file"):
        read_probe(tmp_path / "nowhere.jsonl", NAMES)
    for rows, found in (([], "0 and 0"), (ROWS[:2], "2 and 1"), (ROWS[::2], "1 and 3")):
        with pytest.raises(UserError, match=f"two or more kinds of sentences over two or more classes, found {found}$"):
            read_probe(write(tmp_path / "few.jsonl", rows), NAMES)
    (tmp_path / "latin.jsonl").write_bytes('{"text": "grün"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.jsonl:1: not UTF-8 text"):
        read_probe(tmp_path / "latin.jsonl", NAMES)
    with pytest.raises(UserError, match=r"2 classes of that name"):
        check_probe([ProbeSentence(**row) for row in ROWS], (*NAMES, "owl"))
