"""`ex2 analyze`: from a file of descriptions to a report on what the VLM prefers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.device import torch_device
from ex2.base.errors import UserError
from ex2.base.folders import being_written, output_folder
from ex2.base.shown import printable, say, shell_line
from ex2.commands.common import bank_options, check_fetched, fetch_option, open_scorer

if TYPE_CHECKING:
    import pandas as pd

    from ex2.analysis.labels import Sheet
    from ex2.analysis.study import Study
    from ex2.texts.descriptions import Description


ANALYSIS = "analysis"
_DESCRIPTIONS = ("descriptions.jsonl", "aligned.jsonl")
_EXAMPLES = 3  # classes whose texts are printed


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "analyze",
        help="report what kinds of attributes the VLM prefers, with tests and controls",
        description="Categorise every clause of the descriptions (docs/judge.md), test what each adds to the similarity\n"
        "with held-out images, compare with controls, and write report.html, plots, and every number as a table.\n"
        "Descriptions of a training run are compared with the untrained policy's texts that the run keeps, and the\n"
        "verdict with a direct probe: written sentences of each kind, scored on the same images.",
        epilog="Examples:\n"
        "  ex2 generate runs/quickstart --out descriptions.jsonl\n"
        "  ex2 analyze descriptions.jsonl --out runs/quickstart/analysis\n"
        "  ex2 analyze mine.jsonl --base base.jsonl --vlm hf:google/siglip2-base-patch16-224 --dataset folder:birds --out birds",
    )
    parser.add_argument(
        "descriptions",
        type=Path,
        metavar="DESCRIPTIONS",
        help="file that `ex2 generate` wrote, or a run folder that holds it (descriptions.jsonl or aligned.jsonl)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write; default for a run: its folder analysis"
    )
    parser.add_argument("--judge", default="local", metavar="SPEC", help="see `ex2 list judges`; default: local")
    parser.add_argument("--run", type=Path, metavar="RUN", help="run that the policy comes from; default: as recorded")
    parser.add_argument(
        "--base",
        type=Path,
        metavar="FILE",
        help="the untrained policy's descriptions; default: those that the run keeps",
    )
    parser.add_argument(
        "--probe",
        type=Path,
        metavar="FILE",
        help="probe sentences: JSON lines with class_name, kind (visual, habitat, use, kind, chatter) and text "
        "(docs/analysis.md); default: those that come with EX2 for the dataset, if any",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="labels of people in sheets that `ex2 label` wrote: shares and contributions are corrected for the judge's error",
    )
    parser.add_argument(
        "--precision",
        type=float,
        metavar="P",
        help="with --labels: refuse where a corrected share is not known to within P, and say how many labels it takes",
    )
    parser.add_argument("--vlm", metavar="SPEC", help="see `ex2 list vlms`; default: the VLM of the descriptions")
    parser.add_argument("--dataset", help="see `ex2 list datasets`; default: the dataset of the descriptions")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of what is drawn for the controls; default: 0"
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="multiply in float32 also on processors that are twice as fast in bfloat16; cosines then change by about 0.001",
    )
    fetch_option(parser, "DESCRIPTIONS")
    bank_options(parser, "; default: the run's, else ")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Analyse and report."""
    run_folder = arguments.descriptions
    if run_folder.is_dir():
        arguments.descriptions = _descriptions_in(run_folder)
        arguments.out = arguments.out or run_folder / ANALYSIS
    if arguments.out is None:
        raise UserError("--out is needed: name the folder to write.")
    with output_folder(arguments.out, "summary.json", ANALYSIS):
        _analyse(arguments)


def _analyse(arguments: argparse.Namespace) -> None:
    from ex2.analysis.judges import load_judge
    from ex2.data import LabelledImages, load_images
    from ex2.run.folder import held_equal, read_run
    from ex2.texts.descriptions import read_descriptions
    from ex2.texts.probe import read_probe, shipped_probe

    records = read_descriptions(arguments.descriptions)
    _check_fetched(arguments, records)
    dataset = _only("dataset", arguments.descriptions, [r.dataset for r in records], arguments.dataset)
    images = load_images(dataset)
    records = read_descriptions(arguments.descriptions, images.class_names)
    names = images.class_names
    probe = shipped_probe(dataset, names) if arguments.probe is None else read_probe(arguments.probe, names)
    found = _vlms(records)
    if arguments.vlm is None and len(found) != 1:
        known = f"name several VLMs ({', '.join(sorted(found))})" if found else "name no VLM"
        raise UserError(f"--vlm is needed: the descriptions in {arguments.descriptions} {known}.")
    vlm = arguments.vlm or found.pop()
    run_folder = arguments.run or _run_of(records, arguments.descriptions)
    settings, metrics = ({}, []) if run_folder is None else read_run(run_folder)

    device = torch_device(arguments.device)
    judge = load_judge(
        arguments.judge,
        device=device,
        cache_dir=arguments.cache_dir,
        exact=arguments.exact,
        allow_pickle_formats=arguments.allow_pickle_formats,
    )
    scorer = open_scorer(arguments, settings, vlm, images, device)
    base = _base(arguments.base, run_folder, dataset, images.class_names)
    labels = _labels(arguments, [*records, *base])

    from ex2.analysis.pipeline import analyse
    from ex2.analysis.report import write_report

    study = analyse(
        records,
        scorer,
        judge,
        base=base,
        probe=probe,
        metrics=metrics,
        meta={
            "vlm": scorer.bank.vlm_name,
            "dataset": dataset,
            "policy": _only("model", arguments.descriptions, [r.model for r in records], None, several=True),
            "descriptions": str(arguments.descriptions),
            "sampling_seed": records[0].seed,
            "questions": len({r.question for r in records}),
            **({} if arguments.probe is None else {"probe": str(arguments.probe)}),
            **held_equal(settings, metrics),
        },
        seed=arguments.seed,
        exact=arguments.exact,
        on_step=lambda step: print(f"{step} ...", flush=True),
    )
    if labels is not None:
        from ex2.analysis.corrected import add_labels

        add_labels(study, *labels, precision=arguments.precision)
    say()
    say_findings(study)  # before they are written: a full disk does not take them
    with being_written(arguments.out, ANALYSIS):
        study.write(arguments.out)
        report = write_report(study, arguments.out, images if isinstance(images, LabelledImages) else None)
    say(f"\nReport: {report}")


def _vlms(records: Sequence[Description]) -> set[str]:
    """The VLMs that descriptions name."""
    return {str(record.extra["vlm"]) for record in records if record.extra.get("vlm")}


def _check_fetched(arguments: argparse.Namespace, records: Sequence[Description]) -> None:
    """Refuse to fetch what only the file of descriptions names."""
    from ex2.data.specs import source_of_dataset
    from ex2.vlm.specs import source_of_vlm

    datasets = {record.dataset for record in records} if arguments.dataset is None else set()
    vlms = _vlms(records) if arguments.vlm is None else set()
    for dataset in sorted(datasets):
        check_fetched(arguments, arguments.descriptions, {"dataset": source_of_dataset(dataset)})
    for vlm in sorted(vlms):
        check_fetched(arguments, arguments.descriptions, {"vlm": source_of_vlm(vlm)})


def say_findings(study: Study) -> None:
    """Print what an analysis found: verdict with its table, probe, three classes before and after, warnings."""
    from ex2.analysis.probe import format_probe
    from ex2.analysis.verdict import format_preference

    for sentence in study.summary["verdict"]:
        say(sentence)
    for sentence in study.summary["counterfactuals"]:
        say(sentence)
    say(format_preference(study.tables["preference"], study.tables["shares"]))
    if "probe" in study.summary:
        say(f"\n{study.summary['probe']['sentence']}")
        say(format_probe(study.tables["probe"]))
    if "labels" in study.summary:
        from ex2.analysis.corrected import format_corrected

        say(f"\n{study.summary['labels']['sentence']}")
        say(format_corrected(study.tables["corrected"]))
    say()
    say_examples(study)
    if study.summary["warnings"]:
        say()
    for warning in study.summary["warnings"]:
        say(f"warning: {warning}")


def say_examples(study: Study) -> None:
    """Print what both policies wrote about some classes."""
    examples = study.summary["examples"][:_EXAMPLES]
    width = max((len(example["class_name"]) for example in examples), default=0)
    for example in examples:
        say(f"{example['class_name']:<{width}}  before  {example['before']}")
        say(f"{'':<{width}}  after   {example['after']}")


def _descriptions_in(run_folder: Path) -> Path:
    """The file of descriptions in a run folder."""
    for name in _DESCRIPTIONS:
        if (run_folder / name).is_file():
            return run_folder / name
    raise UserError(
        f"{run_folder} holds no {_DESCRIPTIONS[0]}: run "
        f"`{shell_line('ex2', 'generate', run_folder, '--out', run_folder / _DESCRIPTIONS[0])}` first."
    )


def _labels(arguments: argparse.Namespace, records: Sequence[Description]) -> tuple[Sheet, pd.DataFrame] | None:
    """The labels that --labels names; read before anything that takes long."""
    if arguments.labels is None:
        if arguments.precision is not None:
            raise UserError(f"--precision {arguments.precision:g} needs labels: name them (--labels FILE).")
        return None
    from ex2.analysis.labels import clause_id, read_labels
    from ex2.texts.categories import split_clauses

    known = {clause_id(r.class_name, clause) for r in records for clause in split_clauses(r.text)}
    return read_labels(arguments.labels, known)


def _only(name: str, path: Path, values: Sequence[str], wanted: str | None, several: bool = False) -> str:
    """The one value that all records share, which must be `wanted` where that is given."""
    found = sorted(set(values))
    if several and len(found) > 1:
        return f"{len(found)} policies"
    if len(found) > 1:
        raise UserError(f"{path} mixes descriptions of several {name}s ({', '.join(found)}): analyse them one by one.")
    if wanted is not None and found[0] != wanted:
        raise UserError(f"--{name} {wanted}: the descriptions in {path} were made for {name} {found[0]}.")
    return found[0]


def _run_of(records: Sequence[Description], file: Path) -> Path | None:
    """The run folder that all records name as their policy, if it is there: from here, or from a folder above their file."""
    models = {record.model for record in records}
    name = next(iter(models))
    if len(models) > 1:
        return None
    for folder in (Path(), *file.resolve().parents):
        if (folder / name / "config.yaml").is_file():
            return folder / name
    if any(record.extra.get("policy_fingerprint") for record in records):
        print(
            f"warning: {printable(name)}, which the descriptions come from, was not found: the untrained policy's texts and "
            "the run's split of images are not known. Name it (--run RUN).",
            file=sys.stderr,
        )
    return None


def _base(path: Path | None, run_folder: Path | None, dataset: str, class_names: Sequence[str]) -> list[Description]:
    """The untrained policy's descriptions: a file's, or those that the run kept; none where there are neither."""
    from ex2.run.folder import base_descriptions
    from ex2.texts.descriptions import read_descriptions

    if path is not None:
        return read_descriptions(path, class_names)
    return [] if run_folder is None else base_descriptions(run_folder, dataset, class_names)
