"""Model cards: of a run (what was trained, on what, with which result, and how to use it), and of its adapter alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ex2.base.embedded_llm import public_name
from ex2.base.files import read_json
from ex2.base.hub import is_repository, licence_of
from ex2.base.shown import markdown, portable
from ex2.options.recorded import read_settings
from ex2.options.run_options import RunOptions
from ex2.stats.before_after import NAMELESS
from ex2.texts.questions import QUESTION_SETS

_SHOWN = (
    "model_name_or_path", "vlm", "dataset", "reward_funcs", "reward_weights", "reward_normalization", "reward_scale", "reading",
    "questions", "pairs", "lora_r", "lora_alpha", "learning_rate", "beta", "num_iterations", "max_steps",
    "max_completion_length", "seed",
)  # fmt: skip


def front_matter(
    *,
    name: str,
    base: str,
    algorithm: str,
    licence: str | None,
    dataset: str,
    hub_dataset: str | None,
    language: str | None,
    reports: Mapping[str, Mapping[str, Any]],
    accuracy: Mapping[str, float],
) -> str:
    """The YAML head of a model card, by which the hub files, filters and compares models.

    Args:
        name: Of the model.
        base: Base model, as others know it; the hub takes no other name than that of a repository.
        algorithm: ``ppo``, ``grpo`` or ``rloo``.
        licence: Of the base model, which its adapter is under as well; None: not known.
        dataset: Name of the images.
        hub_dataset: Their id on the hub, where they come from there.
        language: Of the texts, as a code of two letters; None: not known.
        reports: For each reading of the texts the numbers of a before / after report, empty where there is none.
        accuracy: For each way of classifying the top-1 accuracy on held-out images, between 0 and 1.
    """
    from huggingface_hub import EvalResult, ModelCardData

    def result(kind: str, metric: str, value: float) -> EvalResult:
        return EvalResult(
            task_type="text-generation" if kind == "cosine_similarity" else "zero-shot-image-classification",
            dataset_type=hub_dataset or dataset,
            dataset_name=dataset,
            metric_type=kind,
            metric_name=metric,
            metric_value=round(value, 4),
        )

    results = [
        result("cosine_similarity", f"held-out cosine, {reading}", report["aligned"]["heldout"]["mean"])
        for reading, report in reports.items()
        if report
    ] + [result("accuracy", f"held-out top-1, {way}", value) for way, value in accuracy.items()]
    data = ModelCardData(
        base_model=base if is_repository(base) else None,
        license=licence,
        datasets=[hub_dataset] if hub_dataset else None,
        language=language,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["ex2", algorithm, "lora", "vision-language"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"{data.to_yaml()}\n"


def hub_id(dataset: str) -> str | None:
    """The id on the hub that a spec of images names; None where they do not come from there."""
    kind, _, rest = dataset.partition(":")
    return rest.partition("?")[0] if kind == "hf" and portable(dataset) == dataset else None


def language_of(questions: str | None) -> str | None:
    """The language of the answers to a question set; None where the questions are the user's own."""
    return "en" if questions in QUESTION_SETS else None


def adapter_card(options: RunOptions) -> str:
    """Markdown card of an adapter alone, in the run's folder `adapter` and in checkpoints."""
    base, vlm = public_name(options.policy.model_name_or_path), options.ex2.vlm
    name = options.output_dir.resolve().name
    head = front_matter(
        name=name,
        base=portable(base),
        algorithm=options.algorithm,
        licence=licence_of(base),
        dataset=portable(options.ex2.dataset),
        hub_dataset=hub_id(options.ex2.dataset),
        language=language_of(options.ex2.questions),
        reports={},
        accuracy={},
    )
    return f"""---
{head}---

# {markdown(name)}: a LoRA adapter

Trained with {options.algorithm.upper()} by EX2 so that {markdown(portable(base))} describes the classes of
{markdown(portable(options.ex2.dataset))} in the way the vision-language model {markdown(portable(vlm))} scores highest. The
card of the run, one folder up, has its options and results.
"""


def run_card(folder: Path) -> str:
    """Markdown card of the run in `folder`, from its config.yaml, environment.json and report, if there is one."""
    config = read_settings(folder / "config.yaml")
    environment = read_json(folder / "environment.json")
    about_pairs = config.get("pairs") is not None
    report = folder / ("pair_accuracy.md" if about_pairs else "before_after.md")
    command, out = ("describe-pairs", "pairs.json") if about_pairs else ("generate", "descriptions.jsonl")
    shown = {name: _portable(config.get(name)) for name in _SHOWN}
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    vlm = markdown(portable(environment["vlm"]))
    numbers = read_json(folder / "before_after.json") if (folder / "before_after.json").is_file() else {}
    base = public_name(config.get("model_name_or_path"))
    head = front_matter(
        name=folder.resolve().name,
        base=portable(base),
        algorithm=environment["algorithm"],
        licence=licence_of(base),
        dataset=portable(environment["dataset"]),
        hub_dataset=hub_id(environment["dataset"]),
        language=language_of(config.get("questions")),
        reports={"as written": numbers, "without the class name": numbers.get(NAMELESS, {})},
        accuracy={},
    )
    result = (
        report.read_text(encoding="utf-8").replace("\n#", "\n##") if report.is_file() else "No report was asked for."
    )
    result = result.partition("\n")[2] if result.startswith("# ") else result
    return f"""---
{head}---

# {markdown(folder.name)}: descriptions that {vlm} prefers

A LoRA adapter trained with {environment["algorithm"].upper()} by EX2 so that the base model describes classes in the way the
vision-language model {vlm} scores highest. Its texts show what that model attends to. They are not
facts: check before you rely on one.

    ex2 {command} . --out {out}   # in the folder of this card

## Training

{option_table(shown)}

All options are in `config.yaml`; every sample with its scores is in `samples.jsonl`; metrics are in `metrics.jsonl`.
VLM fingerprint {environment["vlm_fingerprint"][:16]}; {environment["classes"]} classes; seed {environment["seed"]}; {versions}.

## Result

{result.strip()}
"""


def option_table(values: Mapping[str, object]) -> str:
    """Markdown table of options, without those that are not set; lists are comma-separated."""
    rows = (
        f"| {name} | {markdown(', '.join(map(str, value)) if isinstance(value, list) else str(value))} |"
        for name, value in values.items()
        if value is not None
    )
    return "\n".join(["| option | value |", "| --- | --- |", *rows])


def _portable(value: object) -> object:
    """An option's value as a card shows it: no path of this machine in it."""
    return portable(value) if isinstance(value, str) else value
