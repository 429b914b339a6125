"""A run's config.yaml, once others have had it in their hands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ex2.base.errors import UserError
from ex2.options.parse import parse_options
from ex2.options.recorded import SIGNATURE, is_recorded, read_settings


def written(path: Path, **options: object) -> Path:
    path.write_bytes(SIGNATURE + b" PPO run\n" + yaml.safe_dump(options).encode())
    return path


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_what_a_run_writes_is_read(algorithm: str, tmp_path: Path) -> None:
    options = parse_options(algorithm, ["--output_dir", str(tmp_path), "--chat_template_kwargs", '{"a": 1}'])
    path = written(tmp_path / "config.yaml", **options.as_dict())
    assert is_recorded(path)
    assert read_settings(path) == options.as_dict()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dataset", ["a"], r"dataset=\['a'\] must be text\."),
        ("model_name_or_path", 7, r"model_name_or_path=7 must be text \(write it in quotes\)\."),
        ("temperature", "warm", "temperature=warm is no number."),
        ("temperature", 0, "temperature=0 is out of range: it must be at least 1e-06."),
        ("heldout_fraction", None, "heldout_fraction=None must be a number."),
        ("chat_template_kwargs", [], r"chat_template_kwargs=\[\] must be a mapping\."),
    ],
)
def test_values_that_no_run_can_have(name: str, value: object, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "config.yaml", **{name: value})
    with pytest.raises(UserError, match=rf"^{path} is damaged: {message}$"):
        read_settings(path)


def test_other_programs_have_a_config_too(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("dataset: [a, b]\n")
    assert not is_recorded(tmp_path / "config.yaml")
    assert not is_recorded(tmp_path / "none")
