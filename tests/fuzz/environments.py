"""Disks that are full or read-only, caches that cannot be written, no home, other locales, closed outputs, folders that go."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

from ex2.cli import main
from tests.fuzz.material import Material
from tests.fuzz.promise import Case, run, served

_TINY, _SMALL = 0, 2000  # bytes of a file


def commands(material: Material) -> dict[str, list[str]]:
    """Commands that write, OUT for where they do."""
    vlm, data, short = ["--vlm", "pictogram"], ["--dataset", material.dataset], ["--max_new_tokens", "2"]
    from tests.conftest import training_arguments

    training = training_arguments(material.llm, material.images, Path("OUT"), max_steps=2, before_after=False)
    found = {
        "generate": [
            "generate",
            str(material.llm),
            *data,
            "--vlm",
            "none",
            *short,
            "--samples",
            "3",
            "--out",
            "OUT/x.jsonl",
        ],
        "describe-pairs": [
            "describe-pairs",
            str(material.llm),
            *data,
            *vlm,
            "--most",
            "1",
            *short,
            "--out",
            "OUT/x.json",
        ],
        "score": ["score", str(material.texts), *vlm, *data, "--out", "OUT/x.jsonl"],
        "classify": ["classify", *vlm, *data, "--descriptions", str(material.texts), "--out", "OUT/x"],
        "judge": ["judge", "--labels", str(material.labels), "--out", "OUT/x.json"],
        "export": ["export", str(material.run), "--no_descriptions", "--out", "OUT/x"],
        "train": ["train", *training],
    }
    if material.analyses is not None:
        first, second = map(str, material.analyses)
        found |= {
            "analyze": ["analyze", str(material.texts), "--out", "OUT/x"],
            "compare": ["compare", first, second, "--out", "OUT/x"],
            "label": ["label", first, "--n", "12", "--out", "OUT/x"],
        }
    if material.bundle is not None:
        found["demo"] = ["demo", str(material.bundle), "--space", "OUT/x"]
    return found


def environments(material: Material) -> Iterator[Case]:
    """Each command on each disk; and what else may be missing around them."""
    for name, line in commands(material).items():
        for size in (_TINY, _SMALL):
            act = partial(_limited, line, size)
            yield Case(
                "full disks", f"{name}, files of {size} bytes", act, ("x", "File too large", "too large"), "either"
            )
        for what, disk in (("a disk of 16 kB", _small_disk), ("a read-only disk", _read_only)):
            if may_mount():
                act = partial(_on_disk, line, disk)
                yield Case("full disks", f"{name}, {what}", act, (), "either", stops=name == "train")
    yield from _surroundings(material)


@cache
def may_mount() -> bool:
    """Whether this user may mount disks; where not, `python -m tests.fuzz` says so."""
    return (
        os.geteuid() == 0 and subprocess.run(["mount", "--version"], capture_output=True, check=False).returncode == 0
    )


def apart(prepare: Callable[[], object], act: Callable[[Path], object], folder: Path) -> None:
    """Do something in a forked process whose limits and environment are its own, and end as it ended."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of later Pythons, where libraries have started threads
        child = os.fork()
    if child == 0:
        try:
            end = run(Case("", "", lambda folder: (prepare(), act(folder))), folder)
            os.write(writer, json.dumps([end.status, end.error[-3000:], end.lines]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    status, error, lines = json.loads(said)
    print("\n".join(lines), file=sys.stderr)
    if error:
        raise AssertionError(error)
    if status:
        sys.exit(status)


def _line_in(line: Sequence[str], folder: Path) -> None:
    with served():
        main([part.replace("OUT", str(folder)) for part in line])


def _then_again(line: Sequence[str], out: Path, first: Callable[[], None]) -> None:
    """After a disk took no more: nothing half-written is left, and the same command ends well where there is room."""
    try:
        first()
    except SystemExit:
        left = [path.name for path in out.rglob("*") if path.name.endswith(".tmp")]
        assert not left, f"left behind: {left}"
        anew = ["--overwrite", "true"] if line[0] == "train" and (out / "config.yaml").exists() else []
        with redirect_stdout(io.StringIO()), patch("sys.stderr", io.StringIO()):
            _line_in([*line, *anew], out)
        raise


def _limited(line: Sequence[str], size: int, folder: Path) -> None:
    out = folder / "out"
    out.mkdir()
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    _then_again(line, out, lambda: apart(limit, lambda _: _line_in(line, out), folder))


def _on_disk(line: Sequence[str], disk: Callable[[Path], object], folder: Path) -> None:
    out = folder / "out"
    out.mkdir()
    with disk(out):  # type: ignore[attr-defined]
        apart(lambda: None, lambda _: _line_in(line, out), folder)


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], check=True)
    try:
        yield
        assert not [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=16k", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# ---------------------------------------------------------------- around commands


def _surroundings(material: Material) -> Iterator[Case]:
    kind = "environments"
    classify = ["classify", "--vlm", "pictogram", "--dataset", material.dataset, "--descriptions", str(material.texts)]
    generate = ["generate", "smollm2", "--dataset", material.dataset, "--vlm", "none", "--out", "OUT/x.jsonl"]

    def without_home() -> None:
        for name in ("HOME", "EX2_CACHE"):
            os.environ.pop(name, None)
        patch("pwd.getpwuid", side_effect=KeyError("nobody")).start()

    def cache_at(path: str) -> Callable[[], None]:
        return lambda: os.environ.update(EX2_CACHE=path)

    for what, prepare, line, ends, names in (
        ("no home folder", without_home, classify, "refused", ("--cache_dir",)),
        ("no home folder, a cache that is named", without_home, [*classify, "--cache_dir", "OUT/cache"], "well", ()),
        ("no home folder, a model to convert", without_home, generate, "refused", ("--cache_dir",)),
        ("a cache below a file", cache_at(f"{material.texts}/cache"), classify, "well", ()),
        (
            "a cache below a file, a model to convert",
            cache_at(f"{material.texts}/cache"),
            generate,
            "refused",
            ("cache",),
        ),
        ("a cache on a kernel's disk", cache_at("/proc/ex2"), classify, "well", ()),
        ("a cache that is a device", cache_at("/dev/null"), classify, "well", ()),
    ):
        act = partial(apart, prepare, partial(_line_in, line))
        yield Case(kind, what, act, names, ends)
    for encoding in ("ascii", "latin-1", "cp1252", "utf-8"):
        yield Case(kind, f"an output in {encoding}", partial(_encoded, material, encoding), (), "well")
    for stream in ("stdout", "stderr", "stdin"):
        act = partial(apart, partial(setattr, sys, stream, None), lambda _: main(["list", "vlms"]))
        yield Case(kind, f"{stream} is closed", act, (), "well")
    yield Case(kind, "the working folder is gone", partial(apart, lambda: None, _nowhere), (), "either")
    for count in (8, 16, 40):
        limit = partial(
            resource.setrlimit, resource.RLIMIT_NOFILE, (count, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
        yield Case(
            kind, f"{count} open files", partial(apart, limit, partial(_line_in, classify)), ("open files",), "either"
        )


def _encoded(material: Material, encoding: str, folder: Path) -> None:
    """A class whose name the output's encoding lacks."""
    from tests.fuzz.names import _copied

    root = _copied(material, folder, "\u65e5\u672c \u043f\u0438\u043d\u0433\u0432\u0438\u043d")
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding=encoding)):
        main(["classify", "--vlm", "pictogram", "--dataset", f"folder:{root}", "--out", str(folder / "out")])


def _nowhere(folder: Path) -> None:
    gone = folder / "gone"
    gone.mkdir()
    os.chdir(gone)
    shutil.rmtree(gone)
    main(["list", "configs"])
    main(["label", "analysis", "--out", "labels"])
