"""The model card of a run: what was trained, on what, with which result, and how to use it."""

from __future__ import annotations

from pathlib import Path

import yaml

from ex2.base.embedded_llm import public_name
from ex2.base.files import read_json, read_settings
from ex2.base.shown import markdown, printable

_SHOWN = (
    "model_name_or_path", "vlm", "dataset", "reward_funcs", "reward_normalization", "reward_scale", "questions", "pairs",
    "lora_r", "lora_alpha", "learning_rate", "beta", "num_iterations", "max_steps", "max_completion_length", "seed",
)  # fmt: skip


def front_matter(base: str, algorithm: str) -> str:
    """The YAML head of a model card, for the hub."""
    return yaml.safe_dump(
        {
            "library_name": "peft",
            "base_model": base,
            "pipeline_tag": "text-generation",
            "tags": ["ex2", algorithm, "lora", "vision-language"],
        }
    )


def run_card(folder: Path) -> str:
    """Markdown card of the run in `folder`, from its config.yaml, environment.json and report, if there is one."""
    config = read_settings(folder / "config.yaml")
    environment = read_json(folder / "environment.json")
    about_pairs = config.get("pairs") is not None
    report = folder / ("pair_accuracy.md" if about_pairs else "before_after.md")
    command, out = ("describe-pairs", "pairs.json") if about_pairs else ("generate", "descriptions.jsonl")
    rows = "\n".join(f"| {name} | {markdown(str(config.get(name)))} |" for name in _SHOWN)
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    vlm = markdown(environment["vlm"])
    line = printable(" ".join(f"ex2 {command} {folder} --dataset {environment['dataset']} --out {out}".split()))
    result = (
        report.read_text(encoding="utf-8").replace("\n#", "\n##") if report.is_file() else "No report was asked for."
    )
    result = result.removeprefix("# ").partition("\n")[2] if result.startswith("# ") else result
    return f"""---
{front_matter(public_name(config.get("model_name_or_path")), environment["algorithm"])}---

# {markdown(folder.name)}: descriptions that {vlm} prefers

A LoRA adapter trained with {environment["algorithm"].upper()} by EX2 so that the base model describes classes in the way the
vision-language model {vlm} scores highest. Its texts show what that model attends to. They are not
facts: check before you rely on one.

    {line}

## Training

| option | value |
| --- | --- |
{rows}

All options are in `config.yaml`; every sample with its scores is in `samples.jsonl`; metrics are in `metrics.jsonl`.
VLM fingerprint {environment["vlm_fingerprint"][:16]}; {environment["classes"]} classes; seed {environment["seed"]}; {versions}.

## Result

{result}
"""
