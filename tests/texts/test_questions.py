"""Question sets, files of questions, and prompts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ex2.base.errors import UserError
from ex2.texts.questions import (
    PAIR_QUESTIONS,
    QUESTION_SETS,
    TEMPLATE,
    attribute_of,
    build_prompt,
    build_prompts,
    check_questions,
    load_questions,
    named,
    opened,
    opening_of,
    split_question,
    wants_chat,
)


def test_every_question_has_one_place_for_the_class() -> None:
    assert set(QUESTION_SETS) == {"short", "looks", "opened", "study", "pairs"}
    assert len(QUESTION_SETS["study"]) == 25
    for questions in QUESTION_SETS.values():
        assert all(split_question(question)[0].count("{}") == 1 for question in questions)
        assert len(set(questions)) == len(questions)
        assert load_questions("study") == QUESTION_SETS["study"]
    assert TEMPLATE.count("{}") == 1


def test_only_questions_about_pairs_have_a_place_for_the_other_class() -> None:
    for name, questions in QUESTION_SETS.items():
        check_questions(questions, about_pairs=name == "pairs")
    with pytest.raises(UserError, match=r"'Describe a \{\}\.' needs exactly one \{other\}.*questions=pairs"):
        check_questions(["Describe a {}."], about_pairs=True)
    with pytest.raises(UserError, match="needs exactly one"):
        check_questions(["Is a {} a {other} or a {other}?"], about_pairs=True)
    with pytest.raises(UserError, match="is about two classes: choose another set, train with pairs=N"):
        check_questions(PAIR_QUESTIONS.values(), about_pairs=False)
    assert [attribute_of(question) for question in QUESTION_SETS["pairs"]] == list(PAIR_QUESTIONS)
    assert attribute_of("Is a {} a {other}?") == "Is a {} a {other}?"


def test_questions_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("# my questions\n\n  What eats a {}?  \nWhere is a {}?\n", encoding="utf-8")
    assert load_questions(str(path)) == ("What eats a {}?", "Where is a {}?")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no questions"),
        ("# only a comment\n", "has no questions"),
        ("Describe it.", r"'Describe it.' needs exactly one \{\}"),
        ("A {} or a {}?", r"needs exactly one \{\}"),
        ("What is a {}?\nWhat is a {}?", "more than once"),
        ("1. What is a {}?\n2. Describe a {}.", r"numbered or have bullets, as '1. What is a \{\}\?'"),
        ("- What is a {}?\n- Describe a {}.", "numbered or have bullets"),
        ('["What is a {}?"]', "looks like JSON: write one question a line"),
    ],
)
def test_faulty_files_are_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        load_questions(str(path))


def test_what_nobody_sees_is_no_part_of_a_question(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\u200bWhat\x0c does a\u00a0{}  look\x85like?\u2060\n", encoding="utf-8")
    assert load_questions(str(path)) == ("What does a {} look like?",)


def test_unknown_sets_name_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"questions=shrot is neither.*short, looks, opened, study.*Did you mean short\?"
    ):
        load_questions("shrot")


def test_chat_where_the_tokenizer_has_a_template() -> None:
    plain, chat = SimpleNamespace(chat_template=None), SimpleNamespace(chat_template="{{ messages }}")
    assert [wants_chat("auto", plain), wants_chat("auto", chat)] == [False, True]
    assert [wants_chat("plain", plain), wants_chat("plain", chat), wants_chat("chat", chat)] == [False, False, True]
    with pytest.raises(UserError, match="use prompt_format=plain"):
        wants_chat("chat", plain)


def test_prompts() -> None:
    assert build_prompt("Describe a {}.", "cat {}", chat=False, system_prompt=None) == "Describe a cat {}.\n\n"
    user = {"role": "user", "content": "Describe a cat."}
    assert build_prompt("Describe a {}.", "cat", chat=True, system_prompt=None) == [user]
    system = {"role": "system", "content": "Be brief."}
    assert build_prompt("Describe a {}.", "cat", chat=True, system_prompt="Be brief.") == [system, user]


def test_prompts_about_pairs() -> None:
    question = "Is a {} a {other}?"
    text = build_prompt(question, "{other}", chat=False, system_prompt=None, other_name="{}")
    assert text == "Is a {other} a {}?\n\n"  # names are put in once, whatever they are
    table = build_prompts(["cat", "owl", "bat"], [question], chat=False, pairs=[(2, 0), (0, 2)])
    assert table["prompt"] == ["Is a bat a cat?\n\n", "Is a cat a bat?\n\n"]
    assert (table["class_id"], table["class_name"]) == ([2, 0], ["bat", "cat"])
    assert (table["other_id"], table["other_name"]) == ([0, 2], ["cat", "bat"])


def test_prompt_table_binds_texts_to_classes() -> None:
    table = build_prompts(["cat", "owl"], ["What is a {}?", "Describe a {}."], chat=False)
    assert table["class_id"] == [0, 0, 1, 1]
    assert table["class_name"] == ["cat", "cat", "owl", "owl"]
    assert table["question"] == ["What is a {}?", "Describe a {}."] * 2
    assert table["prompt"][3] == "Describe an owl.\n\n"
    assert table["opening"] == [""] * 4


def test_names_take_their_article() -> None:
    assert named("Is a {} like a {other}? A {}!", "owl", "hour") == "Is an owl like an hour? An owl!"
    assert named("a {}, a {other}", "unicorn", "four leaf clover") == "a unicorn, a four leaf clover"
    assert named("the {}, data {}", "ant") == "the ant, data ant"


def test_an_opening_is_where_the_answer_begins() -> None:
    question = "What does a {} look like? -> A {} has"
    assert split_question(question) == ("What does a {} look like?", "A {} has")
    assert split_question("Where is a {}?") == ("Where is a {}?", "")
    assert opening_of(question, "ant") == "An ant has"
    assert build_prompt(question, "ant", chat=False, system_prompt=None) == "What does an ant look like?\n\nAn ant has"
    assert build_prompt(question, "ant", chat=True, system_prompt=None) == [
        {"role": "user", "content": "What does an ant look like?"},
        {"role": "assistant", "content": "An ant has"},
    ]
    assert build_prompts(["ant", "cat"], [question], chat=True)["opening"] == ["An ant has", "A cat has"]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (" six legs.", "An ant has six legs."),
        ("six legs.", "An ant has six legs."),
        (", it seems, legs", "An ant has, it seems, legs"),
    ],
)
def test_an_answer_goes_on_from_its_opening(said: str, answer: str) -> None:
    assert opened("An ant has", said) == answer
    assert opened("", said) == said


def test_nothing_said_stays_nothing() -> None:
    assert opened("Its colors are", "") == ""
    assert opened("Its colors are", " \n").strip() == ""


def test_openings_in_files_may_hold_names_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("What is a {}? -> A {} is a\n", encoding="utf-8")
    assert load_questions(str(path)) == ("What is a {}? -> A {} is a",)
    path.write_text("What is it? -> A {} is a\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"needs exactly one \{\}"):
        load_questions(str(path))
