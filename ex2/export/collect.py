"""From a run folder to the contents of a bundle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ex2.base.embedded_llm import public_name
from ex2.base.errors import UserError
from ex2.base.files import read_json, shaped_as_written
from ex2.base.hub import licence_of
from ex2.base.shown import portable, shell_line
from ex2.export.bundle import ADAPTER
from ex2.export.formats import check_coverage
from ex2.options.ex2_options import EX2Config
from ex2.policy.source import PolicySource, find_policy
from ex2.run import folder as run_folder
from ex2.run.card import hub_id, language_of
from ex2.stats.before_after import NAMELESS, Summary
from ex2.texts.descriptions import Description, read_descriptions

_TRAINING = (
    "reward_funcs", "reward_weights", "reward_normalization", "reward_scale", "pairs", "reference", "learning_rate", "beta",
    "gamma", "lam", "epsilon", "num_iterations", "max_steps", "lora_r", "lora_alpha", "lora_dropout", "load_in_8bit",
    "load_in_4bit", "images_per_class", "heldout_fraction", "split_seed", "seed",
)  # fmt: skip
_CLOCKS = ("seconds", "step_time")  # how busy the machine was says nothing of the policy
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def finished_run(run: Path) -> PolicySource:
    """The policy of a finished run.

    Raises:
        UserError: `run` is no run folder, or the run has not finished.
    """
    if not (run / run_folder.CONFIG).is_file() or not (run / run_folder.ENVIRONMENT).is_file():
        raise UserError(f"{run} is no run folder: it holds no {run_folder.CONFIG} and {run_folder.ENVIRONMENT}.")
    # The card is the last file that a run writes; the adapter alone may come before its report.
    if not (run / run_folder.CARD).is_file():
        raise UserError(
            f"{run} is a run that has not finished: resume it (--resume_from_checkpoint true), then export."
        )
    policy = find_policy(str(run))
    for name in ("dataset", "vlm"):
        if name not in policy.settings:
            raise UserError(f"{run / run_folder.CONFIG} is damaged: {name} is missing.")
    return policy


def adapter_files(run: Path) -> dict[str, Path]:
    """The files of a run's adapter by their names in a bundle."""
    folder = run / run_folder.ADAPTER
    return {f"{ADAPTER}/{name}": folder / name for name in _ADAPTER_FILES if (folder / name).is_file()}


def run_facts(run: Path, policy: PolicySource, *, dataset: str, vlm: str) -> dict[str, Any]:
    """What a manifest says of a run: nothing in it tells where or when it was exported.

    Args:
        run: Run folder.
        policy: Its policy.
        dataset: Name that the bundle gives to the dataset.
        vlm: Spec of the VLM that the run was trained for.
    """
    environment = read_json(run / run_folder.ENVIRONMENT)
    with shaped_as_written(run / run_folder.ENVIRONMENT):
        return _facts(run, policy, environment, dataset, vlm)


def _facts(run: Path, policy: PolicySource, environment: dict[str, Any], dataset: str, vlm: str) -> dict[str, Any]:
    report = run / "before_after.json"
    settings, defaults = policy.settings, EX2Config()
    base = settings.get("model_name_or_path")
    return {
        "name": run.resolve().name,
        "exported_with": {"ex2": version("ex2")},
        "trained_with": {"python": _text(environment["python"]), **environment["packages"]},
        "base_model": {
            "name": portable(public_name(base)),
            "revision": settings.get("model_revision") or "main",
            "licence": licence_of(public_name(base)),
        },
        "adapter": {"fingerprint": policy.fingerprint},
        "merged": None,
        "classifier": None,
        "vlm": {"name": portable(vlm), "fingerprint": _text(environment["vlm_fingerprint"])},
        "dataset": {
            "name": dataset,
            "classes": int(environment["classes"]),
            "hub_id": hub_id(_text(environment["dataset"])),
        },
        "language": language_of(settings.get("questions")),
        "training": {
            "algorithm": _text(environment["algorithm"]),
            **{name: _without_path(settings[name]) for name in _TRAINING if name in settings},
        },
        "generation": {
            "prompt_format": settings.get("prompt_format", defaults.prompt_format),
            "system_prompt": settings.get("system_prompt", defaults.system_prompt),
            "chat_template_kwargs": settings.get("chat_template_kwargs") or {},
            "max_new_tokens": policy.max_new_tokens,
            "temperature": policy.temperature,
            "dtype": settings.get("dtype", "float32"),
            "bf16": bool(settings.get("bf16", False)),
        },
        "metrics": {
            "before_after": _numbers(report, lambda found: Summary.of(found).numbers()),
            NAMELESS: _numbers(report, lambda found: _nameless(Summary.of(found))),
            "accuracy": _accuracy(run, policy, environment["vlm_fingerprint"]),
            "pair_accuracy": _numbers(
                run / "pair_accuracy.json", lambda found: found.get("systems", {}) | found.get("differences", {})
            ),
            "last": _last_metrics(run),
        },
    }


def run_descriptions(
    path: Path, policy: PolicySource, class_names: Sequence[str], *, dataset: str, option: str
) -> tuple[Description, ...]:
    """The descriptions in a file, with the names that a bundle uses for dataset, policy and VLM.

    Args:
        path: File that `ex2 generate` wrote.
        policy: The run's policy.
        class_names: Classes of the dataset, each of which must be described.
        dataset: Name that the bundle gives to the dataset.
        option: What the user calls the file, for messages.

    Raises:
        UserError: No such file, descriptions of other classes or by another policy, or a class without any.
    """
    if not path.is_file():
        write = shell_line("ex2", "generate", policy.name, "--out", path)
        raise UserError(
            f"{option} {path} is no file: write one with `{write}`, or leave the descriptions out (--no_descriptions)."
        )
    records = read_descriptions(path, class_names)
    for record in records:
        if record.extra.get("policy_fingerprint", policy.fingerprint) != policy.fingerprint:
            raise UserError(
                f"{option} {path}: {record.model} as it was then wrote the text {record.text!r}, not the adapter that "
                f"{policy.name} holds now: generate again into another file."
            )
    check_coverage(class_names, records, f"{option} {path}")
    return tuple(
        replace(
            record,
            dataset=dataset,
            model=portable(record.model),
            extra={
                key: portable(value) if key in ("vlm", "scored_on") and isinstance(value, str) else value
                for key, value in record.extra.items()
            },
        )
        for record in records
    )


def _accuracy(run: Path, policy: PolicySource, vlm_fingerprint: str) -> dict[str, float]:
    """Top-1 accuracies that `ex2 study` found with this policy's texts and the run's VLM; empty where it did not."""
    texts = run / run_folder.ALIGNED_TEXTS
    if not texts.is_file() or any(
        r.extra.get("policy_fingerprint") != policy.fingerprint for r in read_descriptions(texts)
    ):
        return {}
    found: dict[str, float] = {}
    for names in ("without", "with"):
        path = run_folder.accuracy_table(run, names)
        if path.is_file() and path.stat().st_mtime >= texts.stat().st_mtime:
            found |= _numbers(path, partial(_top1, names=names, vlm_fingerprint=vlm_fingerprint))
    return found


def _top1(results: Mapping[str, Any], names: str, vlm_fingerprint: str) -> dict[str, float]:
    if results["meta"]["vlm_fingerprint"] != vlm_fingerprint:
        return {}
    rows = {row["system"]: float(row["top1"]) for row in results["systems"]}
    return {f"descriptions {names} the class name": rows["aligned"], "class name": rows["class_name"]}


def _without_path(value: Any) -> Any:
    return portable(value) if isinstance(value, str) else value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _numbers(path: Path, numbers_of: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Numbers of a report of the run; none where it made no report."""
    if not path.is_file():
        return {}
    report = read_json(path)
    with shaped_as_written(path):
        return numbers_of(report)


def _nameless(report: Summary) -> dict[str, Any]:
    return {} if report.nameless is None else report.nameless.numbers()


def _last_metrics(run: Path) -> dict[str, float]:
    """The latest value of every metric of the run: most are logged once a rollout only."""
    latest: dict[str, float] = {}
    for row in run_folder.read_jsonl(run / run_folder.METRICS):
        latest |= row
    with shaped_as_written(run / run_folder.METRICS):
        return {name: value for name, value in sorted(latest.items()) if name not in _CLOCKS and math.isfinite(value)}
