"""What cases work on: a tiny model, a few images, a run, what the commands make of it. Copied before anything is damaged."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from ex2.cli import main
from ex2.texts.descriptions import Description, write_descriptions
from ex2.texts.pairs import PairText, PairTexts, write_pairs

TEXTS = ("It has a long tail.", "A photo of a {}.", "It is used at home.")


@dataclass(frozen=True)
class Material:
    """Folders and files; `analyses`, `bundle` and `vlm` take seconds to make, and are None where cases do without.

    Attributes:
        llm: Tiny random LLM.
        images: A `folder:` dataset of four classes.
        run: Finished training run on both.
        texts: Descriptions, as `ex2 generate` writes them.
        pairs: Sentences about pairs, as `ex2 describe-pairs` writes them.
        labels: Labelled texts.
        analyses: Two folders that `ex2 analyze` wrote.
        bundle: Folder that `ex2 export` wrote.
        vlm: Tiny random CLIP of transformers.
    """

    llm: Path
    images: Path
    run: Path
    texts: Path
    pairs: Path
    labels: Path
    analyses: tuple[Path, Path] | None = None
    bundle: Path | None = None
    vlm: Path | None = None

    @property
    def dataset(self) -> str:
        return f"folder:{self.images}"


def basic(llm: Path, images: Path, run: Path, root: Path) -> Material:
    """What needs nothing but a run, in the folder `root`."""
    names = tuple(folder.name.replace("_", " ") for folder in sorted(images.iterdir()))
    write_pairs(root / "pairs.json", PairTexts(names, {(0, 1): (PairText("legs", ("It has four.", "It has none.")),)}))
    label = {"class_name": names[0], "text": "It is small.", "category": "visual"}
    (root / "labels.jsonl").write_text(json.dumps(label) + "\n")
    return Material(
        llm, images, run, write_texts(root / "texts.jsonl", images), root / "pairs.json", root / "labels.jsonl"
    )


def write_texts(path: Path, images: Path) -> Path:
    """Descriptions of the classes in a `folder:` dataset."""
    names = [folder.name.replace("_", " ") for folder in sorted(images.iterdir())]
    records = [
        Description(f"folder:{images}", i, name, "q", text.format(name), "m", 0, {}, extra={"vlm": "pictogram"})
        for i, name in enumerate(names)
        for text in TEXTS
    ]
    write_descriptions(path, records)
    return path


def completed(material: Material, root: Path) -> Material:
    """`material` with what takes seconds to make, in the folder `root`."""
    from tests.vlm.conftest import _clip

    analyses = (root / "analysis", root / "analysis2")
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        main(["analyze", str(material.texts), "--out", str(analyses[0])])
        main(["generate", str(material.run), "--out", str(material.run / "descriptions.jsonl")])
        main(["export", str(material.run), "--out", str(root / "bundle")])
        for part in _clip():
            part.save_pretrained(root / "clip")
    shutil.copytree(*analyses)
    return replace(material, analyses=analyses, bundle=root / "bundle", vlm=root / "clip")
