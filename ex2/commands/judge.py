"""`ex2 judge`: how well judges agree with labels and with each other."""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from typing import Any

from ex2.base.device import torch_device
from ex2.base.errors import UserError
from ex2.base.files import json_lines, json_object
from ex2.base.shown import say
from ex2.commands.common import output_file, pickle_option


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "judge",
        help="measure how well judges agree with labelled texts and with each other",
        description="Accuracy, F1 of each category, Cohen's kappa with 95 % intervals over classes, and the confusion table.\n"
        'Labels are JSON lines: {"class_name": "owl", "text": "It hunts at night.", "category": "non_visual"}',
        epilog="Example: ex2 judge --labels labels.jsonl --judge local hf:smollm2",
    )
    parser.add_argument("--labels", required=True, type=Path, metavar="FILE", help="labelled texts, JSON lines")
    parser.add_argument(
        "--judge", nargs="+", default=["local"], metavar="SPEC", help="see `ex2 list judges`; default: local"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the numbers; default: print only")
    parser.add_argument("--device", default="auto", help="torch device; default: auto (a GPU where there is one)")
    parser.add_argument(
        "--cache_dir", metavar="DIR", help="folder of cached answers; default: $EX2_CACHE or ~/.cache/ex2"
    )
    pickle_option(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Judge the labelled texts and print the agreement."""
    if len(set(arguments.judge)) < len(arguments.judge):
        raise UserError("--judge names a judge twice.")
    with nullcontext() if arguments.out is None else output_file(arguments.out):
        _judge(arguments)


def _judge(arguments: argparse.Namespace) -> None:
    rows = read_labels(arguments.labels)
    from ex2.analysis.agreement import agreement, format_agreement, in_four_categories, knows_four
    from ex2.analysis.judges import load_judge
    from ex2.base.files import write_atomically
    from ex2.texts.categories import Passage, of_text

    passages = [Passage.of(row["class_name"], row["text"]) for row in rows]
    classes = [row["class_name"] for row in rows]
    labels = [row["category"] for row in rows]
    device = torch_device(arguments.device)
    four = knows_four(labels)
    answers = {}
    for spec in arguments.judge:
        judge = load_judge(
            spec,
            device=device,
            cache_dir=arguments.cache_dir,
            allow_pickle_formats=arguments.allow_pickle_formats,
        )
        answers[spec] = [
            in_four_categories(passage, clauses) if four else of_text(clauses)
            for passage, clauses in zip(passages, judge.judge(passages), strict=True)
        ]
    if four:
        say(
            f"No label in {arguments.labels} is kind or name_echo: there name_echo and bare kinds count as spurious, narrower "
            "kinds as non_visual.\n"
        )
    results = {}
    for spec, own in answers.items():
        results[f"{spec} against {arguments.labels}"] = agreement(
            labels,
            [j.category for j in own],
            classes,
            probabilities=[j.probability for j in own],
            best=[j.best for j in own],
        )
    for first, second in combinations(answers, 2):
        results[f"{first} against {second} (first choices)"] = agreement(
            [j.best for j in answers[second]], [j.best for j in answers[first]], classes
        )
    for title, result in results.items():
        say(f"{title}\n{format_agreement(result)}\n")
    if arguments.out is not None:
        numbers = {title: result.as_dict() for title, result in results.items()}
        write_atomically(arguments.out, (json.dumps(numbers, indent=2) + "\n").encode())


def read_labels(path: Path) -> list[dict[str, str]]:
    """Labelled texts: dicts with class_name, text and category.

    Raises:
        UserError: No such file, a broken line (named by number), a missing or empty field, an unknown category, or no labels.
    """
    from ex2.texts.categories import check_category

    if not path.is_file():
        raise UserError(f"--labels {path}: no such file.")
    rows = []
    for number, line in json_lines(path):
        where = f"{path}:{number}"
        try:
            row = json_object(line, ("class_name", "text", "category"), "a label")
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        for name in ("class_name", "text", "category"):
            if not isinstance(row[name], str) or not row[name].strip():
                raise UserError(f"{where}: {name} is missing or empty; a label needs class_name, text and category")
        check_category(row["category"], where)
        rows.append({name: row[name] for name in ("class_name", "text", "category")})
    if not rows:
        raise UserError(f"--labels {path} holds no labels.")
    return rows
