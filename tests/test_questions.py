"""Question sets, files of questions, and prompts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ex2.errors import UserError
from ex2.questions import QUESTION_SETS, TEMPLATE, build_prompt, build_prompts, load_questions, wants_chat


def test_every_question_has_one_place_for_the_class() -> None:
    assert set(QUESTION_SETS) == {"short", "study"}
    assert len(QUESTION_SETS["study"]) == 25
    for questions in QUESTION_SETS.values():
        assert all(question.count("{}") == 1 for question in questions)
        assert len(set(questions)) == len(questions)
        assert load_questions("study") == QUESTION_SETS["study"]
    assert TEMPLATE.count("{}") == 1


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
    ],
)
def test_faulty_files_are_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        load_questions(str(path))


def test_unknown_sets_name_the_nearest() -> None:
    with pytest.raises(UserError, match=r"questions=shrot is neither.*short, study.*Did you mean short\?"):
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


def test_prompt_table_binds_texts_to_classes() -> None:
    table = build_prompts(["cat", "owl"], ["What is a {}?", "Describe a {}."], chat=False)
    assert table["class_id"] == [0, 0, 1, 1]
    assert table["class_name"] == ["cat", "cat", "owl", "owl"]
    assert table["question"] == ["What is a {}?", "Describe a {}."] * 2
    assert table["prompt"][3] == "Describe a owl.\n\n"
