"""`ex2 export`: a finished run as a bundle for other libraries."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.device import torch_device
from ex2.base.errors import UserError
from ex2.base.files import from_home, is_utf8
from ex2.base.locks import alone_at
from ex2.base.shown import say, shell_line
from ex2.commands.common import check_fetched, fetch_option, pickle_option

if TYPE_CHECKING:
    from ex2.export.bundle import Bundle
    from ex2.policy.source import PolicySource
    from ex2.texts.descriptions import Description

_PROMPTS = 8  # texts that the merged model is compared on


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    parser = commands.add_parser(
        "export",
        help="write a finished run and its descriptions in the formats that other libraries read",
        description="Write a folder with the LoRA adapter, the questions, the descriptions (JSON by class, Parquet, FuDD's\n"
        "pairs), a zero-shot classifier for the run's VLM, a model card, and a manifest with checksums: docs/export.md.",
        epilog="Examples:\n"
        "  ex2 generate runs/quickstart --out runs/quickstart/descriptions.jsonl\n"
        "  ex2 export runs/quickstart --out bundles/quickstart --merge",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle that DIR holds")
    parser.add_argument(
        "--descriptions", type=Path, metavar="FILE", help="file of `ex2 generate`; default: RUN/descriptions.jsonl"
    )
    parser.add_argument("--no_descriptions", action="store_true", help="export the generator only")
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="sentences that contrast two classes; default: none")
    parser.add_argument("--dataset", metavar="SPEC", help="where the run's dataset lies now; default: as in the run")
    parser.add_argument("--dataset_name", metavar="NAME", help="its name in the bundle; default: the end of its spec")
    parser.add_argument("--vlm", metavar="SPEC", help="VLM of the classifier; default: the run's; none: no classifier")
    parser.add_argument("--merge", action="store_true", help="add the base model with the adapter merged in")
    parser.add_argument(
        "--merge_dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision of the merged model; default: float32",
    )
    parser.add_argument(
        "--merge_tolerance",
        type=float,
        default=1e-4,
        metavar="X",
        help="largest difference of a logit between the merged model and base + adapter; default: 1e-4",
    )
    parser.add_argument("--push_to_hub", "--push-to-hub", metavar="ID", help="upload the bundle to this hub repository")
    parser.add_argument(
        "--push_descriptions",
        metavar="ID",
        help="upload the descriptions as a data set, which the hub's viewer shows, to this hub repository",
    )
    parser.add_argument("--private", action="store_true", help="repositories that are made are seen by you alone")
    parser.add_argument("--device", default="auto", help="torch device; default: auto (a GPU where there is one)")
    parser.add_argument(
        "--cache_dir", metavar="DIR", help="folder of converted models; default: the run's, $EX2_CACHE or ~/.cache/ex2"
    )
    pickle_option(parser)
    fetch_option(parser, "RUN")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Gather, write, push."""
    from ex2.export.folder import check_free

    if arguments.no_descriptions and arguments.descriptions is not None:
        raise UserError("--descriptions and --no_descriptions exclude each other: leave one out.")
    if arguments.no_descriptions and arguments.push_descriptions:
        raise UserError("--push_descriptions has nothing to upload with --no_descriptions: leave one out.")
    out = from_home(arguments.out)
    if arguments.merge and not is_utf8(str(out)):
        raise UserError(f"--out {out}: tokenizers are saved under names in UTF-8 only: name another folder.")
    with alone_at(out, "--out"):
        check_free(out, overwrite=arguments.overwrite)
        _export(arguments, out)


def _export(arguments: argparse.Namespace, out: Path) -> None:
    from ex2.export.bundle import write_files
    from ex2.export.collect import finished_run
    from ex2.export.folder import new_folder

    policy = finished_run(arguments.run)
    _check_fetched(arguments, policy)
    bundle = _gather(arguments, policy)
    with new_folder(out, overwrite=arguments.overwrite) as work:
        if arguments.merge:
            bundle = _merged(arguments, policy, bundle, work)
        write_files(bundle, work)
    say(f"Wrote {_summary(bundle)} to {out}. Next: `{shell_line('ex2', 'demo', out)}`, a page to try it.")
    base = policy.settings.get("model_name_or_path")
    if base is not None and Path(base).is_dir():
        say(f"The adapter names the folder {base} as its base model: elsewhere, say where that is (base_model=...).")
    if arguments.push_to_hub:
        from ex2.base.hub import push_folder
        from ex2.export.folder import MANIFEST

        say(
            f"Pushed to {push_folder(out, arguments.push_to_hub, '--push_to_hub', MANIFEST, private=arguments.private)}."
        )
    if arguments.push_descriptions:
        say(f"Pushed to {_push_descriptions(bundle, arguments.push_descriptions, arguments.private)}.")


def _check_fetched(arguments: argparse.Namespace, policy: PolicySource) -> None:
    """Refuse to fetch what only the run names: dataset, VLM of the classifier, and the base model where it is merged."""
    from ex2.data.specs import source_of_dataset
    from ex2.vlm.specs import source_of_vlm

    named = {"dataset": source_of_dataset(policy.settings["dataset"]) if arguments.dataset is None else None}
    if arguments.vlm is None and not arguments.no_descriptions:
        named["vlm"] = source_of_vlm(policy.settings["vlm"])
    if arguments.merge:
        named["merge"] = policy.fetched_from
    check_fetched(arguments, arguments.run, named)


def _push_descriptions(bundle: Bundle, repo_id: str, private: bool) -> str:
    """Upload the descriptions as a data set; its address."""
    from tempfile import TemporaryDirectory

    from ex2.base.hub import push_folder
    from ex2.export.bundle import TABLE, write_dataset

    with TemporaryDirectory() as name:
        write_dataset(bundle, Path(name))
        return push_folder(Path(name), repo_id, "--push_descriptions", TABLE, private=private, kind="dataset")


def _gather(arguments: argparse.Namespace, policy: PolicySource) -> Bundle:
    """Everything but the merged model."""
    from ex2.base.shown import portable
    from ex2.data import load_images
    from ex2.export.bundle import Bundle
    from ex2.export.collect import adapter_files, run_descriptions, run_facts
    from ex2.export.formats import build_classifier
    from ex2.texts.pairs import read_pairs

    images = load_images(arguments.dataset or policy.settings["dataset"])
    dataset = arguments.dataset_name or portable(images.name).rpartition(":")[2]
    vlm_spec = policy.settings["vlm"]
    facts = run_facts(arguments.run, policy, dataset=dataset, vlm=vlm_spec)
    if len(images.class_names) != facts["dataset"]["classes"]:
        raise UserError(
            f"--dataset {images.name} has {len(images.class_names)} classes, the run was trained on "
            f"{facts['dataset']['classes']}: name the dataset of the run."
        )
    records: tuple[Description, ...] = ()
    classifier = None
    if not arguments.no_descriptions:
        path = arguments.descriptions or arguments.run / "descriptions.jsonl"
        records = run_descriptions(path, policy, images.class_names, dataset=dataset, option="--descriptions")
    if records and arguments.vlm != "none":
        from ex2.vlm import load_vlm

        vlm = load_vlm(
            arguments.vlm or vlm_spec,
            device=torch_device(arguments.device),
            allow_pickle_formats=arguments.allow_pickle_formats,
        )
        classifier = build_classifier(images.class_names, records, vlm)
        facts["classifier"] = {"vlm": portable(vlm.name), "vlm_fingerprint": vlm.fingerprint}
    return Bundle(
        facts=facts,
        class_names=images.class_names,
        questions=policy.questions,
        records=records,
        pairs=None if arguments.pairs is None else read_pairs(arguments.pairs, images.class_names),
        classifier=classifier,
        weights=adapter_files(arguments.run),
    )


def _merged(arguments: argparse.Namespace, policy: PolicySource, bundle: Bundle, folder: Path) -> Bundle:
    """The bundle with the merged model, which is written into `folder`."""
    from dataclasses import replace
    from itertools import cycle, islice

    from ex2.export.bundle import MERGED, weights_in
    from ex2.export.merge import merge_adapter
    from ex2.run import folder as run_folder

    turns = zip(cycle(bundle.questions), cycle(bundle.class_names), strict=False)
    difference = merge_adapter(
        policy.base_path(arguments.cache_dir or policy.settings.get("cache_dir")),
        arguments.run / run_folder.ADAPTER,
        folder / MERGED,
        [question.replace("{}", name) for question, name in islice(turns, _PROMPTS)],
        dtype=arguments.merge_dtype,
        tolerance=arguments.merge_tolerance,
        revision=bundle.facts["base_model"]["revision"],
        device=torch_device(arguments.device),
        allow_pickle_formats=arguments.allow_pickle_formats,
    )
    say(f"Merged: logits differ from those of base + adapter by at most {difference:.2g}.")
    merged = {
        "dtype": arguments.merge_dtype,
        "max_logit_difference": difference,
        "tolerance": arguments.merge_tolerance,
    }
    return replace(bundle, facts=bundle.facts | {"merged": merged}, weights={**bundle.weights, **weights_in(folder)})


def _summary(bundle: Bundle) -> str:
    parts = ["the adapter"]
    if bundle.facts["merged"] is not None:
        parts.append("the merged model")
    if bundle.records:
        parts.append(f"{len(bundle.records)} descriptions of {len(bundle.class_names)} classes")
    if bundle.pairs is not None:
        parts.append(f"{len(bundle.pairs.pairs)} pairs")
    if bundle.classifier is not None:
        dim, classes = bundle.classifier.shape
        parts.append(f"a classifier ({dim} x {classes})")
    return ", ".join(parts)
