"""Values of the wrong kind are refused by the name of their option, before a parser computes with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ex2.base.errors import UserError
from ex2.options.parse import parse_options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vlm: [pictogram]", r"^vlm=\['pictogram'\] must be text\.$"),
        ("vlm: null", r"^vlm=None must be text\.$"),
        ("vlm: 7", r"^vlm=7 must be text \(write it in quotes\)\.$"),
        ("eval_strategy: no", r"^eval_strategy=False must be text \(write it in quotes\)\.$"),
        ("eval_strategy: often", r"^eval_strategy=often is unknown: choose one of no, steps, epoch\.$"),
        ("questions: 2024-01-01", r"^questions=2024-01-01 must be text\.$"),
        ("before_after: 7", r"^before_after=7 must be true or false\.$"),
        ("reward_funcs: [[cosine]]", r"^reward_funcs=.* must be a list\.$"),
        ("reward_funcs: [cosine, 7]", r"^reward_funcs=.* must be a list\.$"),
        ("reward_weights: [1.0, x]", r"^reward_weights=x must be a number\.$"),
        ("model_init_kwargs: x", r"^model_init_kwargs=x is neither JSON, as '\{\"a\": 1\}', nor a file\.$"),
        ("model_init_kwargs: '{'", r"^model_init_kwargs=\{ is broken JSON"),
        ('vlm: "a\\0b"', r"^vlm=.* must be text\.$"),
        (f"seed: {'9' * 5000}", r"^--config .* is no valid YAML: line 1: a number of 5000 digits$"),
    ],
)
def test_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text + "\n")
    with pytest.raises(UserError, match=message):
        parse_options("ppo", ["--config", str(tmp_path / "c.yaml"), "--output_dir", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (["--reward_clip_range", "3"], "", "3: write a list of 2 numbers into a config file."),
        (["--reward_clip_range", "x"], "", "x must be a number."),
        ([], "reward_clip_range: 3", "3 must be a list of 2 numbers."),
        ([], "reward_clip_range: [1, 2, 3]", r"\[1, 2, 3\] must be a list of 2 numbers."),
        ([], "reward_clip_range: [2, 1]", r"\[2, 1\] would make all rewards equal: write the smaller number first."),
    ],
)
def test_a_list_of_so_many(line: list[str], text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text or "seed: 1")
    with pytest.raises(UserError, match=f"^reward_clip_range={message}$"):
        parse_options("rloo", ["--config", str(tmp_path / "c.yaml"), "--output_dir", str(tmp_path / "run"), *line])
    (tmp_path / "c.yaml").write_text("reward_clip_range: [-1, 2.5]")
    options = parse_options("rloo", ["--config", str(tmp_path / "c.yaml"), "--output_dir", str(tmp_path / "run")])
    assert options.trainer.reward_clip_range == [-1, 2.5]


def test_one_value_is_a_list_of_one_as_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("reward_funcs: margin\nreward_weights: 2\nlearning_rate: 1e-4\n")
    options = parse_options("ppo", ["--config", str(tmp_path / "c.yaml"), "--output_dir", str(tmp_path / "run")])
    assert options.ex2.reward_funcs == ["margin"]
    assert options.trainer.reward_weights == [2]
    assert options.trainer.learning_rate == 1e-4


def test_a_mapping_on_the_command_line() -> None:
    with pytest.raises(UserError, match=r"^lr_scheduler_kwargs=\{'a' is broken JSON"):
        parse_options("ppo", ["--lr_scheduler_kwargs", "{'a'"])


def test_the_command_line_is_checked_where_a_file_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("save_steps: 2\n")
    with pytest.raises(UserError, match="^save_steps=inf is out of range"):
        parse_options("ppo", ["--config", str(tmp_path / "c.yaml"), "--save_steps", "1e999"])
