"""The bundle: what is known of a run, its classes, questions, descriptions and weights, and how they lie in a folder.

Nothing in a bundle depends on when or where it was written, so that reading one and writing it again gives the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ex2.base.errors import UserError
from ex2.base.files import read_json, shaped_as_written, to_json
from ex2.export import formats
from ex2.export.card import bundle_card, dataset_card
from ex2.export.folder import new_folder, read_manifest, write_manifest
from ex2.texts.descriptions import Description, read_descriptions, write_descriptions
from ex2.texts.pairs import PairTexts, read_pairs, write_pairs

CLASSES, QUESTIONS, CARD = "classes.json", "questions.json", "README.md"
RECORDS, BY_CLASS, BY_DATASET, TABLE = (
    "descriptions.jsonl", "descriptions.json", "descriptions_by_dataset.json", "descriptions.parquet",
)  # fmt: skip
PAIRS, CLASSIFIER = "pairs.json", "classifier.safetensors"
ADAPTER, MERGED = "adapter", "merged"


@dataclass(frozen=True)
class Bundle:
    """An aligned generator with its descriptions.

    Attributes:
        facts: What the manifest says of the run, as `ex2.export.collect.run_facts` gathers it.
        class_names: Names of the C classes by id; two classes may have the same name.
        questions: Question templates with one `{}`.
        records: Descriptions, at least one of each class; or none at all.
        pairs: Sentences that contrast two classes, for FuDD.
        classifier: Zero-shot weights (D, C), unit columns.
        weights: Files of the generator: name in the bundle (`adapter/...`, `merged/...`) -> where it lies.

    Raises:
        UserError: Descriptions, pairs or classifier are of other classes, or a class has no description.
    """

    facts: dict[str, Any]
    class_names: tuple[str, ...]
    questions: tuple[str, ...]
    records: tuple[Description, ...] = ()
    pairs: PairTexts | None = None
    classifier: formats.Matrix | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = dict(enumerate(self.class_names))
        for record in self.records:
            if names.get(record.class_id) != record.class_name:
                raise UserError(
                    f"descriptions: class {record.class_id} ({record.class_name}) is no class of the bundle."
                )
        if self.records:
            formats.check_coverage(self.class_names, self.records, "descriptions")
        if self.pairs is not None and tuple(self.pairs.class_names) != self.class_names:
            raise UserError("pairs: their class names are not those of the bundle, in the same order.")
        if self.classifier is not None and self.classifier.shape[1:] != (len(self.class_names),):
            raise UserError(
                f"classifier: expected {len(self.class_names)} columns, found the shape {self.classifier.shape}."
            )


def write_bundle(bundle: Bundle, out: Path, *, overwrite: bool = False) -> None:
    """Write a bundle to the folder `out`, whole or not at all.

    Raises:
        UserError: `out` holds a bundle and `overwrite` is False, or holds something else; the disk refuses.
    """
    with new_folder(out, overwrite=overwrite) as work:
        write_files(bundle, work)


def write_files(bundle: Bundle, folder: Path) -> None:
    """Write the files of a bundle into an empty folder, or one that holds nothing but weights of it."""
    for name, source in bundle.weights.items():
        target = folder / name
        if source != target:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    keys = formats.class_keys(bundle.class_names)
    classes = [
        {"class_id": i, "class_name": name, "class_key": key}
        for i, (name, key) in enumerate(zip(bundle.class_names, keys, strict=True))
    ]
    (folder / CLASSES).write_bytes(to_json(classes))
    (folder / QUESTIONS).write_bytes(to_json(bundle.questions))
    if bundle.records:
        _write_descriptions(bundle, folder)
    if bundle.pairs is not None:
        write_pairs(folder / PAIRS, bundle.pairs)
    if bundle.classifier is not None:
        formats.write_classifier(folder / CLASSIFIER, bundle.class_names, bundle.classifier)
    (folder / CARD).write_text(bundle_card(bundle.facts, bundle.records), encoding="utf-8")
    write_manifest(folder, bundle.facts)


def _write_descriptions(bundle: Bundle, folder: Path) -> None:
    import pyarrow.parquet

    write_descriptions(folder / RECORDS, bundle.records)
    texts = formats.texts_by_class(bundle.class_names, bundle.records)
    (folder / BY_CLASS).write_bytes(to_json(texts))
    (folder / BY_DATASET).write_bytes(to_json({bundle.facts["dataset"]["name"]: texts}))
    pyarrow.parquet.write_table(formats.to_table(bundle.class_names, bundle.records), folder / TABLE)


def write_dataset(bundle: Bundle, folder: Path) -> None:
    """Write the descriptions alone, as a data set that the hub's viewer shows: a table and its card."""
    import pyarrow.parquet

    pyarrow.parquet.write_table(formats.to_table(bundle.class_names, bundle.records), folder / TABLE)
    (folder / CARD).write_text(dataset_card(bundle.facts, bundle.records, TABLE), encoding="utf-8")


def read_bundle(folder: Path) -> Bundle:
    """The bundle in a folder; `write_bundle` writes it again byte for byte.

    Raises:
        UserError: No bundle, a file changed, missing or too many, or contents that do not fit together.
    """
    facts = read_manifest(folder)
    classes, questions = read_json(folder / CLASSES), read_json(folder / QUESTIONS)
    with shaped_as_written(folder / CLASSES):
        class_names = tuple(str(entry["class_name"]) for entry in classes)
    if not isinstance(questions, list) or not all(isinstance(question, str) for question in questions):
        raise UserError(f"{folder / QUESTIONS} is damaged: it is no list of questions.")
    return Bundle(
        facts=facts,
        class_names=class_names,
        questions=tuple(questions),
        records=tuple(read_descriptions(folder / RECORDS, class_names)) if (folder / RECORDS).is_file() else (),
        pairs=read_pairs(folder / PAIRS, class_names) if (folder / PAIRS).is_file() else None,
        classifier=formats.read_classifier(folder / CLASSIFIER) if (folder / CLASSIFIER).is_file() else None,
        weights=weights_in(folder),
    )


def weights_in(folder: Path) -> dict[str, Path]:
    """The files below `adapter/` and `merged/`, by their names in the bundle."""
    paths = (path for part in (ADAPTER, MERGED) for path in sorted((folder / part).rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}
