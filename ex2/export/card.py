"""The model card of a bundle, from nothing but what the bundle holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ex2.base.shown import markdown
from ex2.run.card import front_matter, option_table
from ex2.stats.before_after import NAMELESS
from ex2.stats.intervals import Interval
from ex2.texts.descriptions import Description

_EXAMPLES = 5
_REPORTS = {
    "before_after": "held-out cosine",
    NAMELESS: "held-out cosine without the class name",
    "pair_accuracy": "held-out pair accuracy",
}


def bundle_card(facts: dict[str, Any], records: Sequence[Description]) -> str:
    """Markdown card with front matter that the hub reads."""
    base, training = facts["base_model"], facts["training"]
    licence = markdown(base["licence"] or "not known here: see the card of the base model")
    metrics, dataset = facts["metrics"], facts["dataset"]
    head = front_matter(
        name=facts["name"],
        base=base["name"],
        algorithm=training["algorithm"],
        licence=base["licence"],
        dataset=dataset["name"],
        hub_dataset=dataset.get("hub_id"),
        language=facts.get("language"),
        reports={"as written": metrics["before_after"], "without the class name": metrics.get(NAMELESS, {})},
        accuracy=metrics.get("accuracy", {}),
    )
    name, vlm, base_name = (markdown(text) for text in (facts["name"], facts["vlm"]["name"], base["name"]))
    merged = facts["merged"]
    return f"""---
{head}---

# {name}: descriptions that {vlm} prefers

A LoRA adapter of {base_name}, trained with {training["algorithm"].upper()} by EX2 so that it describes the
{facts["dataset"]["classes"]} classes of {markdown(facts["dataset"]["name"])} in the way the vision-language model {vlm} scores
highest. The texts show what that model attends to. They are not facts: check before you rely on one.

    from ex2 import DescriptionGenerator

    generator = DescriptionGenerator.from_pretrained("DIR_OR_ID")
    records = generator.describe(["puffin", "hammer"], n=4, seed=0)

Licence of the base model: {licence}.
{_merged_line(merged)}
## Files

| file | content |
| --- | --- |
| `manifest.json` | versions, fingerprints, training, metrics, SHA-256 of every file |
| `classes.json`, `questions.json` | class ids, names and keys; question templates |
| `adapter/`, `merged/` | LoRA adapter (PEFT); the whole model, where it was exported |
| `descriptions.json`, `descriptions_by_dataset.json` | texts by class; the same under the name of the dataset |
| `descriptions.jsonl`, `descriptions.parquet` | texts with question, scores and seed |
| `pairs.json`, `pairs.classes.json` | sentences that contrast two classes, where there are any (FuDD) |
| `classifier.safetensors` | {_classifier_line(facts["classifier"])} |

## Training

{option_table(training)}

VLM fingerprint {facts["vlm"]["fingerprint"][:16]}, adapter fingerprint {facts["adapter"]["fingerprint"]}.

## Result
{_results(facts["metrics"])}{_examples(records)}"""


def dataset_card(facts: dict[str, Any], records: Sequence[Description], table: str) -> str:
    """Markdown card of the descriptions alone, as a data set; `table` is the file that holds them."""
    from huggingface_hub import DatasetCardData

    head = DatasetCardData(
        language=facts.get("language"),
        pretty_name=f"{facts['name']}: descriptions of {facts['dataset']['name']}",
        tags=["ex2", "class-descriptions", "zero-shot-image-classification"],
        task_categories=["zero-shot-image-classification"],
        configs=[{"config_name": "default", "data_files": table}],
    ).to_yaml()
    name, vlm, base = (markdown(text) for text in (facts["name"], facts["vlm"]["name"], facts["base_model"]["name"]))
    return f"""---
{head}
---

# {name}: descriptions that {vlm} prefers

{len(records)} descriptions of the {facts["dataset"]["classes"]} classes of {markdown(facts["dataset"]["name"])}, written by
{base} with a LoRA adapter that EX2 trained with {facts["training"]["algorithm"].upper()}, so that it describes classes in the way
the vision-language model {vlm} scores highest. The texts show what that model attends to. They are not
facts: check before you rely on one.

One row a text: class, question, text, scores and seed.
{_examples(records)}"""


def _merged_line(merged: dict[str, Any] | None) -> str:
    if merged is None:
        return ""
    return (
        f"`merged/` is the base model with the adapter merged in, in {merged['dtype']}. Its logits differ from those of "
        f"base and adapter by at most {merged['max_logit_difference']:.2g}.\n"
    )


def _classifier_line(classifier: dict[str, Any] | None) -> str:
    return "not exported" if classifier is None else f"zero-shot weights (D, C) for {markdown(classifier['vlm'])}"


def _results(metrics: dict[str, Any]) -> str:
    """Held-out means of each system and difference, as the run's own report has them."""
    tables = [
        "\n".join(
            [
                f"\n| system | {title} [95 % interval] |\n| :- | -: |",
                *(
                    f"| {name.replace('_minus_', ' - ')} | {Interval.of(part).shown('.4f')} |"
                    for name, part in ((name, scores["heldout"]) for name, scores in metrics[report].items())
                ),
            ]
        )
        for report, title in _REPORTS.items()
        if metrics.get(report)
    ]
    return "\n".join(tables or ["\nThe run made no report."]) + "\n"


def _examples(records: Sequence[Description]) -> str:
    """The first text of some classes, spread evenly; none is chosen by score."""
    first = {record.class_id: record for record in reversed(records)}
    chosen = sorted(first)[:: max(1, len(first) // _EXAMPLES)][:_EXAMPLES]
    if not chosen:
        return ""
    lines = "\n".join(f"| {markdown(first[i].class_name)} | {markdown(first[i].text)} |" for i in chosen)
    return f"\n## Examples\n\n| class | text |\n| --- | --- |\n{lines}\n"
