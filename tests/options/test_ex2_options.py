"""EX2's own options: defaults, ranges, and that reading them stays light."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from ex2.base.errors import UserError
from ex2.options.ex2_options import EX2Config


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("images_per_class", 0, "at least 1"),
        ("eval_samples", 0, "at least 1"),
        ("eval_batch_size", 0, "at least 1"),
        ("best_of_n", 1, "at least 2"),
        ("heldout_fraction", 1.0, "between 0 and 1"),
        ("heldout_fraction", 0.0, "between 0 and 1"),
        ("reward_scale", 0.0, "positive"),
        ("reward_normalization", "rank", "scale, zscore"),
        ("prompt_format", "xml", "auto, chat, plain"),
        ("reference", "none", "base, start"),
        ("vlm_dtype", "int8", "float32, bfloat16, float16"),
    ],
)
def test_values_out_of_range_are_refused_by_name(option: str, value: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"{option}={value}.*{words}"):
        EX2Config(**{option: value})


def test_pair_margin_needs_pairs() -> None:
    with pytest.raises(UserError, match="reward_funcs=pair_margin compares the two classes of a pair: set pairs"):
        EX2Config(reward_funcs=["pair_margin"])
    with pytest.raises(UserError, match="pairs=0 is out of range: it must be at least 1"):
        EX2Config(reward_funcs=["pair_margin"], pairs=0)
    assert EX2Config(reward_funcs=["cosine"], pairs=3).pairs == 3


def test_reference_start_needs_an_adapter() -> None:
    with pytest.raises(UserError, match="reference=start needs adapter_name_or_path"):
        EX2Config(reference="start")
    assert EX2Config(reference="start", adapter_name_or_path="runs/a/adapter").reference == "start"


def test_lists_are_not_shared_between_configurations() -> None:
    first, second = EX2Config(), EX2Config()
    first.reward_funcs.append("margin")
    assert second.reward_funcs == ["cosine"]


def test_configuration_and_command_line_help_import_no_torch() -> None:
    code = (
        "import sys, ex2, ex2.options.ex2_options, ex2.cli\n"
        "for line in (['--help'], ['train', '--help'], ['--version']):\n"
        "    try:\n        ex2.cli.main(line)\n"
        "    except SystemExit as stop:\n        assert not stop.code\n"
        "assert not {'torch', 'transformers', 'trl', 'numpy'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "generate" in result.stdout
    assert "Example:" in result.stdout
