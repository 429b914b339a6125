"""Files that are there and damaged: of a run, its checkpoints, analyses, bundles, models and caches."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ex2.base.files import to_json
from ex2.cli import main
from ex2.launch import ending_in_one_line
from ex2.options.ex2_options import EX2Config
from ex2.options.recorded import _OF_LIBRARIES
from ex2.rl.checkpoints import MANIFEST
from ex2.run.view import RunView
from tests.fuzz.material import Material
from tests.fuzz.promise import Case, served

Damage = Callable[[Path], None]


def _write(data: bytes) -> Damage:
    return lambda path: path.write_bytes(data) and None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 3, min(len(data) // 3 + 8, len(data))):
        data[place] ^= 0x55
    path.write_bytes(data)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


ANY: dict[str, Damage] = {
    "empty": _write(b""), "cut in half": _cut, "flipped bytes": _flip, "a folder": _folder, "a dangling link": _dangling,
    "gone": lambda path: path.unlink(), "zeros": _write(b"\0" * 4096), "random bytes": _write(bytes(range(256)) * 8),
}  # fmt: skip
JSON: dict[str, Damage] = {
    "a list": _write(b"[]"), "a number": _write(b"7"), "null": _write(b"null"), "text": _write(b'"x"'), "{}": _write(b"{}"),
    "nested deeply": _write(b'{"a":' * 50_000), "UTF-16": _write('{"a": 1}'.encode("utf-16")), "NaN": _write(b'{"a": NaN}'),
    "a long number": _write(b'{"step": ' + b"9" * 5000 + b"}"), "a lone surrogate": _write(b'{"a": "\\ud800"}'),
    "an unhashable key": _write(b"? [a]\n: 1\n"), "a list of numbers": _write(b"[1, 2]"), "lists in lists": _write(b"[[[]]]"),
}  # fmt: skip


def _values(path: Path) -> Iterator[tuple[str, Damage]]:
    """For a file that holds one object, as JSON or YAML: each value in it of the wrong kind, or gone."""
    head, _, _ = path.read_bytes().partition(b"\n") if path.suffix == ".yaml" else (b"", None, None)
    content = yaml.safe_load(path.read_bytes()) if head else json.loads(path.read_bytes())
    if isinstance(content, dict):
        for what, changed in _changed(content):
            yield what, _write(head + b"\n" + json.dumps(changed).encode())


_SHOWN = ("files", "metrics", "packages", "trained_with")
"""Objects with many values of one kind, of which one is as good as all."""


def _changed(content: dict[str, Any], above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, before in content.items():
        for value in (None, [], {}, "x", -1, 1e308):
            yield f"{above}{key}={value!r}", content | {key: value}
        yield f"without {above}{key}", {k: v for k, v in content.items() if k != key}
        if isinstance(before, dict) and key not in _SHOWN:
            for what, changed in _changed(before, f"{above}{key}."):
                yield what, content | {key: changed}


def _rows(path: Path) -> Iterator[tuple[str, Damage]]:
    """For a file of JSON lines: each value in the last of them of the wrong kind, or gone."""
    *before, last = path.read_bytes().splitlines()
    for what, changed in _changed(json.loads(last)):
        yield what, _write(b"\n".join([*before, json.dumps(changed).encode(), b""]))


def _viewed(run: Path, name: str, damage: Damage, folder: Path) -> None:
    """Make the page of a damaged run, of which the server would show the one line."""
    copy = shutil.copytree(run, folder / run.name)
    damage(copy / name)
    with ending_in_one_line():
        view = RunView(copy)
        view.page()
        view.state(1)


def damages(path: Path) -> dict[str, Damage]:
    """Ways to damage a file, by its ending."""
    found = dict(ANY)
    if path.suffix in (".json", ".jsonl", ".yaml"):
        found |= JSON
    return found


def _damaged(source: Path, name: str, damage: Damage, lines: list[list[str]], resealed: bool, folder: Path) -> None:
    """Copy a folder, damage a file in it, and run commands on it; the first that fails ends the case."""
    copy = folder / source.name
    shutil.copytree(source, copy)
    damage(copy / name)
    manifest = (copy / name).parent / MANIFEST
    if resealed and (copy / name).is_file() and manifest.is_file():
        _reseal(manifest)
    for line in lines:
        main([part.replace("COPY", str(copy)).replace("FOLDER", str(folder)) for part in line])


def _reseal(manifest: Path) -> None:
    """Make a manifest vouch for what is there, as a stranger would."""
    from ex2.base.files import sha256

    content = json.loads(manifest.read_bytes())
    for name in content["sizes"]:
        content["sizes"][name] = (manifest.parent / name).stat().st_size
        content["sha256"][name] = sha256(manifest.parent / name)
    manifest.write_bytes(to_json(content))


def _names(name: str) -> tuple[str, ...]:
    return (
        Path(name).name,
        Path(name).parent.name,
        Path(name).stem,
        "holds no",
        "is a run that has not finished",
        "no whole checkpoint",
        "sampled from",
    )


def damaged_files(material: Material) -> Iterator[Case]:
    """Each file of each folder, damaged in each way."""
    run, few = material.run, ["--classes", "cat", "--max_new_tokens", "2", "--vlm", "none"]
    generate = ["generate", "COPY", *few, "--out", "FOLDER/x.jsonl"]
    export = ["export", "COPY", "--out", "FOLDER/out", "--vlm", "none"]
    analyze = ["analyze", str(material.texts), "--run", "COPY", "--out", "FOLDER/out", "--judge", "none-such"]
    used = {
        "config.yaml": [generate, export], "environment.json": [export], "metrics.jsonl": [export, analyze],
        "before_after.json": [export],
        "adapter/adapter_config.json": [generate], "adapter/adapter_model.safetensors": [generate],
        "adapter/manifest.json": [generate], "descriptions.jsonl": [export], "base_samples.jsonl": [analyze],
    }  # fmt: skip
    for name, lines in used.items():
        if not (run / name).is_file():  # descriptions are made for the whole only
            continue
        for what, damage in damages(run / name).items():
            act = partial(_damaged, run, name, damage, lines, False)
            yield Case("damaged files of a run", f"{name} {what}", act, (*_names(name), "judge"))
    recorded = {option.name for option in fields(EX2Config)} | _OF_LIBRARIES.keys()
    for name in ("config.yaml", "environment.json", "before_after.json", "adapter/adapter_config.json"):
        for what, damage in _values(run / name):
            if name == "config.yaml" and what.removeprefix("without ").partition("=")[0] not in recorded:
                continue  # an option that nothing after training asks for
            act = partial(_damaged, run, name, damage, used[name], False)
            yield Case("damaged values of a run", f"{name} {what}", act, (*_names(name), what.split("=")[0], "adapter"))
    for name in ("config.yaml", "metrics.jsonl", "samples.jsonl"):
        for what, damage in [*damages(run / name).items(), *(_rows(run / name) if name != "config.yaml" else ())]:
            names = (*_names(name), run.name, "cannot be read")
            yield Case("viewed runs", f"{name} {what}", partial(_viewed, run, name, damage), names)
    yield from _checkpoints(material)
    if material.analyses is not None:
        yield from _made_by_commands(material)


def _checkpoints(material: Material) -> Iterator[Case]:
    """Checkpoints: damage after they were written is seen; what a stranger has sealed is refused, or does no harm."""
    last = max(path.name for path in material.run.glob("checkpoint-*"))
    first = [path.name for path in material.run.glob("checkpoint-*") if path.name != last]

    def only(source: Path, name: str, damage: Damage, resealed: bool, folder: Path) -> None:
        from tests.conftest import training_arguments

        copy = shutil.copytree(source, folder / "run")
        for other in first:
            shutil.rmtree(copy / other)
        (copy / "README.md").unlink(missing_ok=True)
        damage(copy / last / name)
        if resealed and (copy / last / name).is_file():
            _reseal(copy / last / MANIFEST)
        main(
            [
                "train",
                *training_arguments(material.llm, material.images, copy, before_after=False),
                "--resume_from_checkpoint",
                "true",
            ]
        )

    for path in sorted((material.run / last).iterdir()):
        if not path.is_file() or path.suffix in (".md", ".jinja"):
            continue
        for what, damage in damages(path).items():
            act = partial(only, material.run, path.name, damage, False)
            names = (path.name, "checkpoint")
            yield Case("damaged checkpoints", f"{path.name} {what}", act, names, "refused")
        if path.name in ("training_args.bin", MANIFEST):
            continue
        for what in (
            "empty",
            "cut in half",
            "random bytes",
            *(("{}", "a list", "nested deeply") if path.suffix == ".json" else ()),
        ):
            act = partial(only, material.run, path.name, damages(path)[what], True)
            yield Case("checkpoints of strangers", f"{path.name} {what}", act, (path.name, last, "adapter"))


def _made_by_commands(material: Material) -> Iterator[Case]:
    assert material.analyses is not None
    assert material.bundle is not None
    assert material.vlm is not None
    analysis, other = material.analyses
    read = [["compare", "COPY", str(other)], ["label", "COPY", "--out", "FOLDER/labels", "--n", "12"]]
    for name in ("summary.json", "tables/clauses.parquet", "tables/shares.parquet"):
        for what, damage in damages(analysis / name).items():
            act = partial(_damaged, analysis, name, damage, read, False)
            yield Case("damaged analyses", f"{name} {what}", act, ("analysis",))
    for what, damage in _values(analysis / "summary.json"):
        act = partial(_damaged, analysis, "summary.json", damage, read, False)
        yield Case("damaged analyses", f"summary.json {what}", act, ("analysis", "copy"))
    for path in sorted(material.bundle.rglob("*")):
        name = path.relative_to(material.bundle).as_posix()
        if path.is_file() and path.suffix != ".md":
            for what, damage in damages(path).items():
                for resealed in (False, True):
                    act = partial(_bundle, material.bundle, name, damage, resealed)
                    kind = "bundles of strangers" if resealed else "damaged bundles"
                    yield Case(
                        kind, f"{name} {what}", act, (*_names(name), "bundle"), "either" if resealed else "refused"
                    )
    for what, damage in _values(material.bundle / "manifest.json"):
        act = partial(_bundle, material.bundle, "manifest.json", damage, True)
        yield Case("bundles of strangers", f"manifest.json {what}", act, ("manifest.json", "bundle", "dtype"))
    model = [
        "generate",
        "COPY",
        "--dataset",
        material.dataset,
        *("--classes", "cat", "--max_new_tokens", "2", "--vlm", "none"),
    ]
    for source, line in (
        (material.llm, [*model, "--out", "FOLDER/x.jsonl"]),
        (material.vlm, ["score", str(material.texts), "--vlm", "hf:COPY", "--dataset", material.dataset]),
    ):
        for path in sorted(source.iterdir()):
            for what, damage in damages(path).items():
                act = partial(_damaged, source, path.name, damage, [line], False)
                yield Case("damaged models", f"{source.name}/{path.name} {what}", act, (source.name,))
            if path.name in ("config.json", "tokenizer_config.json", "generation_config.json"):
                for what, damage in _values(path):
                    act = partial(_damaged, source, path.name, damage, [line], False)
                    yield Case("damaged models", f"{source.name}/{path.name} {what}", act, (source.name,))
    yield from _caches(material)


def _bundle(source: Path, name: str, damage: Damage, resealed: bool, folder: Path) -> None:
    """Serve a damaged bundle, up to the page itself."""
    copy = shutil.copytree(source, folder / "bundle")
    damage(copy / name)
    if resealed and (copy / name).is_file() and name != "manifest.json":
        from ex2.base.files import sha256

        manifest = json.loads((copy / "manifest.json").read_bytes())
        manifest["files"][name] = sha256(copy / name)
        (copy / "manifest.json").write_bytes(to_json(manifest))
    with served():
        main(["demo", str(copy), "--port", "0", "--vlm", "none"])


def _caches(material: Material) -> Iterator[Case]:
    """Damaged caches are made again, with a warning at most."""
    line = ["classify", "--vlm", "pictogram", "--dataset", material.dataset, "--descriptions", str(material.texts)]

    def act(damage: Damage, folder: Path) -> None:
        main([*line, "--cache_dir", str(folder / "cache")])
        for path in sorted((folder / "cache").rglob("*.safetensors")):
            damage(path)
        main([*line, "--cache_dir", str(folder / "cache")])

    for what, damage in ANY.items():
        yield Case("damaged caches", what, partial(act, damage), (), "well")
