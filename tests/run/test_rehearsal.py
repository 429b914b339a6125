"""Options that only the trainer's libraries can refuse are refused before anything is sampled, moved or written."""

from __future__ import annotations

import importlib.util
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ex2.base.errors import UserError
from ex2.options.parse import parse_options
from ex2.run.rehearsal import rehearse
from ex2.run.training import run

Arguments = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward_weights": [1.0]}, "refuses these options: .*reward weights"),
        ({"eval_strategy": "steps"}, "refuses these options: .*eval"),
        ({"report_to": "foo"}, "refuses these options: foo is not supported"),
        (
            {"push_to_hub": True},
            r"push_to_hub=true: the hub does not answer or takes no token: .*ex2 export --push_to_hub",
        ),
        ({"use_liger_kernel": True}, "refuses these options: .*[Ll]iger"),
        ({"optim": "galore_adamw"}, "refuses these options: .*galore"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "refuses these options: .*min_lr"),
        ({"dataloader_prefetch_factor": 2}, "refuses|prefetch_factor"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.filterwarnings("ignore")
def test_what_the_libraries_refuse_is_one_line(
    options: dict[str, Any], words: str, arguments: Arguments, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words) as error:
        rehearse(parse_options("ppo", arguments(tmp_path / "run", **options)))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", [name for name in ("trackio", "swanlab") if importlib.util.find_spec(name) is None])
def test_a_mirror_that_is_not_installed_is_one_line(missing: str, arguments: Arguments, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"refuses these options: .*{missing}"):
        rehearse(parse_options("ppo", arguments(tmp_path / "run", report_to=missing)))


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_nothing_is_left_of_it(algorithm: str, arguments: Arguments, tmp_path: Path) -> None:
    options = parse_options(algorithm, arguments(tmp_path / "run"))
    before = options.as_dict(), random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    rehearse(options)
    after = options.as_dict(), random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == before
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_safe_until_the_options_are_known_to_be_good(
    arguments: Arguments, trained_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained_run, folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UserError, match="refuses these options"):
        run(parse_options("ppo", arguments(folder, overwrite=True, eval_strategy="steps")))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
