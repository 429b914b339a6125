"""Foreign text in terminal, Markdown and spreadsheets."""

from __future__ import annotations

import io
import shlex
import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from ex2.base.shown import markdown, printable, say, shell_line, to_csv


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m\a", "[U+001B][31mred[U+001B][0m[U+0007]"),
        ("over\rwritten\b", "over[U+000D]written[U+0008]"),
        ("gnp.\u202eexe", "gnp.[U+202E]exe"),
        ("\u2066a\u2069\u200f\x9b", "[U+2066]a[U+2069][U+200F][U+009B]"),
        ("\ud800", "[U+D800]"),
        ("two\nlines", "two\nlines"),
        ("пингвин 企鹅 بطريق naïve 🐧 क्\u200dष", "пингвин 企鹅 بطريق naïve 🐧 क्\u200dष"),
    ],
)
def test_what_a_terminal_would_obey_stands_as_code_points(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printable(text) == shown
    say(text)
    assert capsys.readouterr().out == shown + "\n"


def test_every_control_character_is_shown() -> None:
    for code in range(0x250):
        if unicodedata.category(chr(code)) == "Cc" and chr(code) != "\n":
            assert printable(chr(code)) == f"[U+{code:04X}]"


def test_markdown_has_no_meaning() -> None:
    text = "![x](http://a.b/c.png) [link](javascript:1) <script>1</script> | `code`\n# head"
    assert markdown(text) == (
        r"\!\[x\](http://a.b/c.png) \[link\](javascript:1) \<script\>1\</script\> \| \`code\` \# head"
    )


def test_no_cell_is_a_formula() -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "plain", "a=b", ""]
    back = pd.read_csv(io.BytesIO(to_csv(pd.DataFrame({"text": texts, "n": -1.5}))), keep_default_na=False)
    assert back["text"].tolist() == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "[U+0009]x", "[U+000D]x", "plain", "a=b", ""]
    assert back["n"].tolist() == [-1.5] * len(texts)


def test_a_command_that_is_printed_runs_as_it_stands() -> None:
    words = ["ex2", "view", Path('runs/it\'s: "here" $HOME #2')]
    assert shlex.split(shell_line(*words)) == list(map(str, words))
    assert shell_line("ex2", "view", "runs/quickstart") == "ex2 view runs/quickstart"
