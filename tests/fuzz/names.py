"""Names of classes, images and outputs as strangers, spreadsheets, terminals and file systems would not like them."""

from __future__ import annotations

import csv
import os
import re
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import yaml

from ex2.base.shown import printable
from ex2.cli import main
from tests.fuzz.material import Material, write_texts
from tests.fuzz.promise import Case, served

HOSTILE = (
    "=cmd()", "-x", "+1", "@x", "a\nb", "\x1b[31mred\x07", "\u202eright", "\u2066isolated", "a" * 250, "  spaced  ", "%s%n", "{}",
    "{0.__class__}", "{other}", "<script>alert(1)</script>", "[x](http://e.org)", "![x](http://e.org/i.png)", "\u65e5\u672c",
    "e\u0301",
    "'\"", "\\back", "bad\udcff", ",;", "#hash", "~", "*?[a]", "| pipe |", "$(touch ran)", "`touch ran`", "null", "nan", "--out",
    "con",
    "\t", "\u00a0", "\u200b", "\ufeffmark", "\U0001f98a", "a  b", "Cat", "cat_", "0",
)  # fmt: skip


def hostile_names(material: Material) -> Iterator[Case]:
    """Each name as a class, as an image, as an output, and as a run of which a bundle and a Space are made."""
    for name in HOSTILE:
        if "/" in name:
            name = name.replace("/", "\u2215")
        yield Case(
            "hostile names", f"class {name!r}", partial(_class_called, material, name), ("dataset", "class", "--")
        )
        yield Case("hostile names", f"image {name!r}", partial(_image_called, material, name), ("dataset", "image"))
        yield Case("hostile names", f"output {name!r}", partial(_output_called, material, name), ("--out", "out"))
        yield Case("hostile names", f"run {name!r}", partial(_run_called, material, name), ("--out", "--space"))


def _copied(material: Material, folder: Path, class_name: str, image: str = "") -> Path:
    """Two classes of four images each, the first called `class_name`, with an image called `image`."""
    root = folder / "set"
    for source, name in zip(sorted(material.images.iterdir()), (class_name, "whale"), strict=False):
        (root / name).mkdir(parents=True)
        for n, path in enumerate(sorted(source.iterdir())[:4]):
            shutil.copy(path, root / name / (f"{image}{path.suffix}" if image and n == 0 else path.name))
    return root


def _class_called(material: Material, name: str, folder: Path) -> None:
    root = _copied(material, folder, name)
    data = ["--dataset", f"folder:{root}"]
    main(["generate", str(material.llm), *data, "--max_new_tokens", "2", "--questions", "short", "--vlm", "none",
          "--out", str(folder / "t.jsonl")])  # fmt: skip
    main(["classify", "--vlm", "pictogram", *data, "--out", str(folder / "out")])
    _check(folder)


def _image_called(material: Material, name: str, folder: Path) -> None:
    root = _copied(material, folder, "cat", name)
    (root / "cat" / f"broken {name[:200]}.png").write_bytes(b"no image")
    main(["classify", "--vlm", "pictogram", "--dataset", f"folder:{root}", "--out", str(folder / "out")])
    _check(folder)


def _output_called(material: Material, name: str, folder: Path) -> None:
    here = Path.cwd()
    (folder / "in").mkdir()
    os.chdir(folder / "in")
    try:
        texts = write_texts(folder / "texts.jsonl", material.images)
        main(["score", str(texts), "--vlm", "pictogram", "--dataset", material.dataset, f"--out={name}"])
        assert [path.name for path in Path().iterdir()] == [name], "something else was written"
    finally:
        os.chdir(here)


def _run_called(material: Material, name: str, folder: Path) -> None:
    run = shutil.copytree(material.run, folder / "runs" / name)
    main(["export", str(run), "--no_descriptions", "--out", str(folder / "out")])
    with served():
        main(["demo", str(folder / "out"), "--space", str(folder / "space")])
    for card in ("out", "space"):
        _, head, text = (folder / card / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        assert yaml.safe_load(head)
        assert printable(text) == text, "characters that move the cursor"
        assert "<script>" not in text.replace("\\<", ""), "HTML"
        assert not re.search(r"(?<!\\)\[[^]]*\]\(http", text), "a link"


def _check(folder: Path) -> None:
    """Nothing ran, nothing left its folder, nothing reaches terminal or spreadsheet raw."""
    assert not list(folder.rglob("ran"))
    assert {path.name for path in folder.iterdir()} <= {"set", "out", "t.jsonl"}
    shown = getattr(sys.stdout, "getvalue", str)()
    assert printable(shown) == shown.replace("\r", "[U+000D]"), "characters that move the cursor"
    for path in folder.rglob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            for cell in (cell for row in csv.reader(file) for cell in row):
                assert not cell.startswith(("=", "@")), cell
                assert not cell.startswith(("+", "-")) or cell[1:].replace(".", "").replace("e-", "").isdigit(), cell
