"""docs/ppo.md against the code: the walk in the order of a real step, the example by hand, every number that a run logs."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
import transformers
import trl

from ex2.launch import main
from ex2.options.ex2_options import EX2Config
from ex2.rewards import QUALITY_REWARDS, SIMILARITY_REWARDS
from ex2.rewards.monitors import monitor
from ex2.rl import objectives as F
from ex2.rl.ppo_config import PPOConfig
from ex2.run.folder import read_jsonl
from ex2.scoring import TextScorer
from ex2.scoring.bank import ImageBank
from ex2.texts.readings import NAMELESS
from ex2.vlm import VLM

WITH_TARGET_KL = {"updates_left_out"}  # tests/rl/test_ppo_trainer.py looks at it in runs that have one
WITH_VLLM = {  # tests/rl/test_vllm.py
    "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max",
    "sampling/importance_sampling_ratio/mean", "sampling/importance_sampling_ratio/min",
    "sampling/importance_sampling_ratio/max",
}  # fmt: skip

DOCS = Path(__file__).resolve().parent.parent / "docs"
_, WALK, BY_HAND, NUMBERS, LAST = re.split(
    r"^## .*$", (DOCS / "ppo.md").read_text(encoding="utf-8"), flags=re.MULTILINE
)


def table_rows(section: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return [row for row in rows if not set("".join(row)) <= set("- ")]


# ---------------------------------------------------------------- one step


def functions_of_the_walk() -> dict[str, CodeType]:
    """Each function that the walk names, in the order of its first mention, with its code."""
    found: dict[str, CodeType] = {}
    for name, link, foreign in re.findall(r"\[`([\w.]+)`\]\(([^)]+)\)|`((?:GRPO)?Trainer\.\w+)`", WALK):
        *owner, function = (name or foreign).split(".")
        if foreign:
            scope: Any = {"GRPOTrainer": trl.GRPOTrainer, "Trainer": transformers.Trainer}[owner[0]]
        else:
            path = (DOCS / link).resolve().relative_to(DOCS.parent)
            scope = importlib.import_module(".".join(path.with_suffix("").parts))
            assert Path(inspect.getfile(scope)).parts[-len(path.parts) :] == path.parts
            scope = getattr(scope, owner[0]) if owner else scope
        assert function in vars(scope), f"{name or foreign} is not there"
        found[name or foreign] = inspect.unwrap(vars(scope)[function]).__code__
    return found


def test_the_walk_is_what_a_step_does_in_its_order(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    functions = functions_of_the_walk()
    assert len(functions) > 35
    mathematics = {f.__code__: name for name, f in vars(F).items() if inspect.isfunction(f)}
    names = mathematics | {code: name for name, code in functions.items()}
    called: dict[str, None] = {}

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code in names:
            called.setdefault(names[frame.f_code])

    line = arguments(tmp_path / "run", group_baseline="true", before_after="false", max_steps=2, save_strategy="no")
    sys.setprofile(note)
    try:
        main("ppo", line)
    finally:
        sys.setprofile(None)
    assert "masked_mean" in called  # a mean, in the comparison of layouts
    assert [name for name in called if name != "masked_mean"] == list(functions)


def test_the_walk_cites_the_equations_that_the_functions_do() -> None:
    cited = re.compile(r"arXiv:(\d+\.\d+), eq(?:uation|\.) (\d+)")
    assert set(cited.findall(WALK)) == set(cited.findall(inspect.getsource(F)))


# ---------------------------------------------------------------- by hand


def test_the_example_by_hand_is_what_the_functions_give() -> None:
    tokens: dict[str, torch.Tensor] = {}
    values: dict[str, float] = {}
    for name, *cells in table_rows(BY_HAND):
        if len(cells) == 3 and cells[0] != "token 1":
            tokens[name.rpartition("*")[2].strip()] = torch.tensor([[float(cell) for cell in cells]])
        elif len(cells) == 1 and cells[0] != "value":
            values[name.strip("`")] = float(cells[0])
    settings = {name: float(number) for name, number in re.findall(r"`(\w+)` ([\d.]+)[,.]", BY_HAND)}
    assert set(settings) == {"kl_coef", "gamma", "lam", "epsilon", "cliprange_value", "vf_coef"}

    mask = torch.ones(1, 3)
    ratio, old_value = tokens["log-ratio to the reference"], tokens["old value"]
    moved, new_value = tokens["log-prob, new - old"], tokens["new value"]
    rewards = F.shaped_rewards(torch.tensor([1.0]), ratio, mask, settings["kl_coef"])
    advantages, returns = F.gae(rewards, old_value, mask, settings["gamma"], settings["lam"])
    deltas, _ = F.gae(rewards, old_value, mask, settings["gamma"], lam=0.0)
    whitened = F.masked_whiten(advantages, mask)
    zero = torch.zeros(1, 3)
    policy, policy_clipped = F.clipped_policy_loss(moved, zero, whitened, settings["epsilon"])
    value, value_clipped = F.clipped_value_loss(new_value, old_value, returns, settings["cliprange_value"])
    expected_tokens = {
        "log-ratio to the reference": ratio,
        "old value": old_value,
        "shaped reward": rewards,
        "delta": deltas,
        "advantage": advantages,
        "return": returns,
        "whitened advantage": whitened,
        "log-prob, new - old": moved,
        "new value": new_value,
        "policy loss": policy,
        "value loss": value,
    }
    assert list(tokens) == list(expected_tokens)
    for name, expected in expected_tokens.items():
        torch.testing.assert_close(tokens[name], expected, atol=6e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    expected_values = {
        "kl": ratio.sum(),
        "kl_k3": F.kl_k3(ratio, zero).sum(),
        "policy_loss": policy.mean(),
        "value_loss": value.mean(),
        "loss": policy.mean() + settings["vf_coef"] * value.mean(),
        "clip_ratio/policy": policy_clipped.mean(),
        "clip_ratio/value": value_clipped.mean(),
        "approx_kl": F.kl_k3(zero, moved).mean(),
    }
    assert values == {name: pytest.approx(expected.item(), abs=6e-5) for name, expected in expected_values.items()}

    # The sums in words: "0.99 + 0 - 0.8 = 0.19".
    sums = re.findall(r"(-?[\d.]+(?: [-+x] -?[\d.]+)+) = (-?[\d.]*\d)", BY_HAND)
    assert len(sums) == 6
    for left, right in sums:
        assert eval(left.replace("x", "*")) == pytest.approx(float(right)), left
    assert [float(r) for r in re.findall(r"\(r = ([\d.]+),", BY_HAND)] == pytest.approx(
        moved[0, 1:].exp().tolist(), abs=6e-3
    )


# ---------------------------------------------------------------- every number


def explained() -> list[str]:
    """The numbers that the page explains."""
    return [name for row in table_rows(NUMBERS) for name in re.findall(r"`([^`]+)`", row[0])]


def test_every_logged_number_is_explained_and_no_other(
    trained_run: Path, pictogram_vlm: VLM, pictogram_bank: ImageBank
) -> None:
    logged = {
        re.sub(r"^rewards/\w+/", "rewards/NAME/", name)
        for row in read_jsonl(trained_run / "metrics.jsonl")
        for name in row
    }
    scorer = TextScorer(pictogram_vlm, pictogram_bank)
    logged |= set(monitor(scorer, ["a cat"], [0], [1], NAMELESS))  # as runs about pairs and with another reading do
    logged |= WITH_TARGET_KL | WITH_VLLM
    assert len(explained()) == len(set(explained()))
    assert set(explained()) == logged


def test_numbers_of_a_rollout_and_of_an_update_stand_in_their_tables(trained_run: Path) -> None:
    first, second, *_ = read_jsonl(trained_run / "metrics.jsonl")  # of one rollout
    tables = re.split(r"^\| number .*$", NUMBERS, flags=re.MULTILINE)[1:]
    _, completions, each_rollout, _, each_update, _ = (
        set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)) for table in tables
    )
    assert each_update - WITH_TARGET_KL <= set(first) & set(second)
    assert not (each_rollout | completions) & set(second)
    assert each_rollout <= set(first)


def test_what_to_turn_exists() -> None:
    options = {field.name for config in (PPOConfig, EX2Config) for field in fields(config)}
    known = options | set(explained()) | {*SIMILARITY_REWARDS, *QUALITY_REWARDS, "null"}
    named = {
        name.partition(":")[0]
        for row in table_rows(NUMBERS)
        for cell in row[1:]
        for name in re.findall(r"`([^`]+)`", cell)
    }
    assert named - known == set()
    assert len(named & options) > 15


def test_links_lead_somewhere() -> None:
    page = (DOCS / "ppo.md").read_text(encoding="utf-8")
    assert [link for link in re.findall(r"\]\(([^)#]+)", page) if not (DOCS / link).exists()] == []


def test_what_the_first_rollout_of_a_run_shows(trained_run: Path) -> None:
    first, second, *_ = read_jsonl(trained_run / "metrics.jsonl")
    assert (first["kl"], first["kl_k3"], first["approx_kl"], first["clip_ratio/policy"]) == (0, 0, 0, 0)
    assert first["value/explained_variance"] == pytest.approx(0, abs=1e-6)
    assert second["approx_kl"] > 0
    assert first["score"] == first["reward"]
