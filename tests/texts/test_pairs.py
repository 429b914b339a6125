"""Files of pair descriptions: FuDD's format, round trips, classes bound by name, and every way in which they can be broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ex2.base.errors import UserError
from ex2.texts.descriptions import Description
from ex2.texts.pairs import PairText, PairTexts, both_ways, class_list_path, pair_texts, read_pairs, write_pairs
from ex2.texts.questions import PAIR_QUESTIONS

NAMES = ("cat", "owl", "bat")


def _entry(i: int, j: int, *texts: str) -> dict[str, Any]:
    first, second = texts or (f"{i} not {j}", f"{j} not {i}")
    return {"classes": [i, j], "prompt_pairs": [{"attr_type": "color", "prompt_pair": [first, second]}]}


def _file(folder: Path, content: Any, names: Any = NAMES) -> Path:
    path = folder / "pairs.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    if names is not None:
        class_list_path(path).write_text(json.dumps(names), encoding="utf-8")
    return path


def test_the_file_is_fudds(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    texts = (PairText("color", ("a grey cat", "a brown owl")), PairText("size", ("small", "smaller")))
    write_pairs(path, PairTexts(NAMES, {(1, 2): texts[:1], (0, 1): texts}))
    assert json.loads(path.read_text()) == {
        "0_1": {
            "classes": [0, 1],
            "prompt_pairs": [
                {"attr_type": "color", "prompt_pair": ["a grey cat", "a brown owl"]},
                {"attr_type": "size", "prompt_pair": ["small", "smaller"]},
            ],
        },
        "1_2": {
            "classes": [1, 2],
            "prompt_pairs": [{"attr_type": "color", "prompt_pair": ["a grey cat", "a brown owl"]}],
        },
    }
    assert json.loads((tmp_path / "mine.classes.json").read_text()) == ["cat", "owl", "bat"]


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@st.composite
def contrasts(draw: st.DrawFn) -> PairTexts:
    names = draw(st.lists(text, min_size=2, max_size=5))
    keys = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    some = draw(st.lists(st.sampled_from(keys), unique=True))
    lines = st.lists(
        st.builds(PairText, st.text(st.characters(exclude_categories=["Cs"])), st.tuples(text, text)), min_size=1
    )
    return PairTexts(tuple(names), {key: tuple(draw(lines)) for key in some})


@settings(deadline=None)  # it writes files
@given(contrasts())
def test_equal_content_gives_equal_bytes_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, pairs: PairTexts
) -> None:
    folder = tmp_path_factory.getbasetemp()
    first, second = folder / "first.json", folder / "second.json"
    write_pairs(first, pairs)
    again = read_pairs(first, pairs.class_names)
    assert again == pairs
    write_pairs(second, PairTexts(again.class_names, dict(reversed(again.pairs.items()))))
    assert second.read_bytes() == first.read_bytes()
    assert class_list_path(second).read_bytes() == class_list_path(first).read_bytes()


def test_odd_names_survive(tmp_path: Path) -> None:
    names = ('a "quoted" name', "a/b\\c", "Löwenzähnchen 猫", "same", "same", "{} {other}")
    pairs = PairTexts(names, {(3, 4): (PairText("", ("“first”\n", "second")),)})
    write_pairs(tmp_path / "p.json", pairs)
    assert read_pairs(tmp_path / "p.json", names) == pairs
    assert "Löwenzähnchen 猫" in class_list_path(tmp_path / "p.json").read_text(encoding="utf-8")


def test_classes_are_found_by_name_and_sentences_turn_with_them(tmp_path: Path) -> None:
    path = _file(tmp_path, {"0_1": _entry(0, 1, "cat here", "owl here"), "2_1": _entry(2, 1, "bat there", "owl there")})
    found = read_pairs(path, ("owl", "bat", "cat"))
    assert found.class_names == ("owl", "bat", "cat")
    assert found.pairs == {
        (0, 2): (PairText("color", ("owl here", "cat here")),),
        (0, 1): (PairText("color", ("owl there", "bat there")),),
    }
    assert found.about()[0, 2] == ("owl here",)
    assert found.about()[2, 0] == ("cat here",)
    assert set(found.about()) == set(both_ways([(0, 1), (0, 2)]))


def test_a_key_that_is_there_twice_is_no_broken_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^\S+pairs\.json: the key '0_1' is there twice: merge the two$"):
        read_pairs(_file(tmp_path, '{"0_1": 1, "0_1": 2}'), NAMES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "broken JSON"),
        ("[]", "expected a JSON object of pairs such as 0_1, found list"),
        ({"0-1": _entry(0, 1)}, "'0-1': a key must be two class numbers such as 0_1"),
        ({"0_1_2": _entry(0, 1)}, "'0_1_2': a key must be two class numbers"),
        ({"00_1": _entry(0, 1)}, "'00_1': a key must be two class numbers"),
        ({"0_1": _entry(1, 0)}, r"'0_1': the key disagrees with classes \[1, 0\]: they must be \[0, 1\]"),
        ({"0_1": _entry(0, 2)}, r"'0_1': the key disagrees with classes \[0, 2\]"),
        ({"0_3": _entry(0, 3)}, "'0_3': class 3 is out of range: the class list has 3 names, 0 to 2"),
        ({"1_1": _entry(1, 1)}, "'1_1': a pair needs two classes, but both are 1"),
        ({"0_1": _entry(0, 1), "1_0": _entry(1, 0)}, "'1_0': the same pair is there twice, once in each order"),
        ('{"0_1": 1, "0_1": 2}', "the key '0_1' is there twice"),
        ({"0_1": _entry(0, 1, "a cat", " \n")}, r"'0_1': a sentence is empty in \['a cat', ' \\n'\]"),
        ({"0_1": {"classes": [0, 1], "prompt_pairs": []}}, "'0_1': expected .* at least one entry"),
        ({"0_1": []}, "'0_1': expected an object with classes"),
        (
            {"0_1": _entry(0, 1) | {"prompt_pairs": [{"prompt_pair": ["a", "b"]}]}},
            "'0_1': expected an object with attr_type",
        ),
        ({"0_1": _entry(0, 1) | {"prompt_pairs": [{"attr_type": "x", "prompt_pair": ["a"]}]}}, "must be two sentences"),
        (
            {"0_1": _entry(0, 1) | {"prompt_pairs": [{"attr_type": "x", "prompt_pair": ["a", 2]}]}},
            "must be two sentences",
        ),
        (
            {"0_1": _entry(0, 1) | {"prompt_pairs": [{"attr_type": 1, "prompt_pair": ["a", "b"]}]}},
            "attr_type must be a string",
        ),
    ],
)
def test_broken_files_name_file_and_key(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(UserError, match=rf"pairs\.json.*{words}"):
        read_pairs(_file(tmp_path, content), NAMES)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("cat", "bta"),
            "1 of 2 names are no class of the dataset, or could be several: 'bta' (nearest: 'bat'); classes",
        ),
        (("cat", "owl", "bat", "zebra"), "1 of 4 names are no class of the dataset, or could be several: 'zebra'."),
        (("cat", "owl"), "1 of the dataset's 3 classes are missing: bat"),
        (("cat", "cat", "owl", "bat"), "it has several classes called 'cat', which only their positions tell apart"),
        ({"cat": 0}, "expected a JSON list of class names in order"),
        (("cat", 1), "expected a JSON list of class names in order"),
    ],
)
def test_class_lists_of_another_dataset_are_refused(tmp_path: Path, names: Any, words: str) -> None:
    with pytest.raises(UserError) as error:
        read_pairs(_file(tmp_path, {"0_1": _entry(0, 1)}, names), NAMES)
    assert str(error.value).startswith(f"{tmp_path / 'pairs.classes.json'}: {words}")


def test_equal_names_are_told_apart_by_position_alone(tmp_path: Path) -> None:
    path = _file(tmp_path, {"0_1": _entry(0, 1)}, ("crane", "crane", "owl"))
    assert set(read_pairs(path, ("crane", "crane", "owl")).pairs) == {(0, 1)}
    for other in (("owl", "crane", "crane"), ("crane", "owl", "bat")):
        with pytest.raises(UserError, match="several classes called 'crane'.*must be the dataset's, in its order"):
            read_pairs(path, other)
    with pytest.raises(UserError, match="the dataset has several classes called 'owl'"):
        read_pairs(_file(tmp_path, {"0_1": _entry(0, 1)}), ("owl", "owl", "cat"))


def test_absent_files_say_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.json: no such file; `ex2 describe-pairs` writes"):
        read_pairs(tmp_path / "no.json", NAMES)
    path = _file(tmp_path, {}, names=None)
    with pytest.raises(UserError, match=r"put it, a JSON list in order, into .*pairs\.classes\.json"):
        read_pairs(path, NAMES)


@pytest.mark.parametrize("pair", [(1, 0), (1, 1), (-1, 0), (0, 3)])
def test_pairs_out_of_order_or_range_cannot_be_made(pair: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="must be i < j, both in 0 to 2"):
        PairTexts(NAMES, {pair: (PairText("", ("a", "b")),)})
    with pytest.raises(UserError, match=r"pair \(0, 1\) has no sentences"):
        PairTexts(NAMES, {(0, 1): ()})


def test_answers_become_pairs_where_both_orders_are_answered() -> None:
    def answer(i: int, j: int, question: str, sample: int, text: str) -> Description:
        extra = {"other_id": j, "other_name": NAMES[j], "sample": sample}
        return Description("d", i, NAMES[i], question, text, "m", 0, {}, extra=extra)

    color, mine = PAIR_QUESTIONS["color"], "Is a {} a {other}?"
    answers = [
        answer(1, 0, color, 0, "brown"), answer(0, 1, color, 0, "grey"), answer(0, 1, mine, 0, "no"),
        answer(1, 0, mine, 0, "never"),
        answer(0, 1, color, 1, "white"), answer(1, 0, color, 1, "dark"),
        answer(0, 1, mine, 1, "nobody answered the other way round"), answer(2, 1, color, 0, "neither here"),
    ]  # fmt: skip
    assert pair_texts(answers, NAMES).pairs == {
        (0, 1): (
            PairText("color", ("grey", "brown")),
            PairText(mine, ("no", "never")),
            PairText("color", ("white", "dark")),
        )
    }


@pytest.mark.parametrize("name", ["pairs_class_names.json", "class_names.json", "pair_class_names.json"])
def test_the_class_list_of_published_files_is_found(tmp_path: Path, name: str) -> None:
    path = _file(tmp_path, {"0_1": _entry(0, 1)}, names=None)
    (tmp_path / name).write_text(json.dumps([name.upper().replace(" ", "-") for name in NAMES]))
    (tmp_path / "other_class_names.json").write_text("[]")
    assert set(read_pairs(path, NAMES).pairs) == {(0, 1)}
