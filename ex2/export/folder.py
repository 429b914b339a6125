"""The folder of a bundle: its manifest with a checksum of every file, and how one folder takes the place of another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import NoneType, SimpleNamespace
from typing import Any

from ex2.base.errors import UserError, shortened
from ex2.base.files import read_json, sha256, sweep, temporary_beside, to_json
from ex2.base.ranges import check_ranges

MANIFEST = "manifest.json"
FORMAT, FORMAT_VERSION = "ex2-bundle", 1
"""What the manifest calls the format. The version rises only with a change that breaks readers (docs/export.md)."""

_FACTS: dict[str, tuple[type, ...]] = {
    "name": (str,), "base_model.name": (str,), "base_model.revision": (str,), "adapter.fingerprint": (str,),
    "vlm.name": (str,), "vlm.fingerprint": (str,), "generation.prompt_format": (str,),
    "generation.system_prompt": (str, NoneType), "generation.chat_template_kwargs": (dict,),
    "generation.max_new_tokens": (int,), "generation.temperature": (int, float), "generation.dtype": (str,),
    "generation.bf16": (bool,),
}  # fmt: skip
"""Types of the facts that a generator and its page are made of; all others are only shown."""


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest: `facts` and the SHA-256 of every other file in `folder`."""
    files = {name: sha256(folder / name) for name in _files_in(folder)}
    header = {"format": FORMAT, "format_version": FORMAT_VERSION}
    (folder / MANIFEST).write_bytes(to_json({**header, **facts, "files": files}))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The facts in the manifest, once every file has been checked against it.

    Raises:
        UserError: No bundle, one of another format version, or a file that is changed, missing, not listed, or named
            so that it would lie outside the folder.
    """
    facts = _parse_manifest(folder)
    version = facts.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder}: the bundle has format version {version}, this EX2 reads {FORMAT_VERSION}: install the EX2 "
            "that wrote it, or export again."
        )
    del facts["format"]
    listed = facts.pop("files")
    if links := [path for path in sorted(folder.rglob("*")) if path.is_symlink() and path.is_dir()]:
        raise UserError(
            f"{folder}: {links[0].relative_to(folder).as_posix()} is a link to a folder, for whose files no checksum stands: "
            "do not use this bundle, or copy it with its files (cp -rL) and export again."
        )
    for name in listed:
        _check_inside(folder, name)
    present = _files_in(folder)
    for name, digest in listed.items():
        if name not in present:
            raise UserError(f"{folder}: {name} is missing: copy or export the bundle again.")
        if sha256(folder / name) != digest:
            raise UserError(f"{folder}: {name} has changed since it was exported: copy or export the bundle again.")
    for name in present:
        if name not in listed:
            raise UserError(f"{folder}: {name} is no part of the bundle: move it elsewhere.")
    _check_facts(facts, folder / MANIFEST)
    return facts


def check_free(out: Path, *, overwrite: bool, option: str = "--out") -> None:
    """See whether a bundle may be written to `out`; nothing is written or deleted.

    Raises:
        UserError: `out` is a file, holds a bundle and `overwrite` is False, or holds anything that is no bundle.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{option} {out} is a file: name a folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        listed = _parse_manifest(out)["files"]
    except UserError:
        raise UserError(f"{option} {out} is not empty and holds no bundle: choose another folder.") from None
    if other := [name for name in _all_files(out) if name not in listed and name != MANIFEST]:
        raise UserError(
            f"{option} {out} holds {other[0]} beside a bundle: move it elsewhere, or choose another folder."
        )
    if not overwrite:
        raise UserError(f"{option} {out} already holds a bundle: choose another folder, or replace it (--overwrite).")


@contextmanager
def new_folder(out: Path, *, overwrite: bool, option: str = "--out") -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place at the end, or is gone after an error.

    Raises:
        UserError: As `check_free`; the disk refuses.
    """
    target = Path(os.path.realpath(out))  # which has a name where `out` is `.`, and no fear of links in a circle
    if _old(target).is_dir() and not target.exists():  # a kill between the two renames of an exchange
        os.rename(_old(target), target)
    check_free(out, overwrite=overwrite, option=option)
    out = target
    work = temporary_beside(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(out.parent)
        work.mkdir()
        yield work
        _put_in_place(work, out)
    except OSError as error:
        raise UserError(f"{option} {out} could not be written, and is as it was before: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _put_in_place(work: Path, out: Path) -> None:
    if not out.exists():
        os.rename(work, out)
        return
    old = _old(out)
    shutil.rmtree(old, ignore_errors=True)
    os.rename(out, old)
    try:
        os.rename(work, out)
    except OSError:
        os.rename(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)  # the new bundle is in place, whatever happens to the old one


def _old(out: Path) -> Path:
    """Where a bundle waits for the moment in which another takes its place."""
    return out.with_name(f".ex2-{out.name[:200]}.old")


def _parse_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} holds no bundle: {MANIFEST} is missing. `ex2 export RUN --out DIR` writes bundles.")
    manifest = read_json(path)
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("files"), dict)
    ):
        raise UserError(f"{path} is not the manifest of an EX2 bundle.")
    return manifest


def _check_facts(facts: dict[str, Any], path: Path) -> None:
    for name, kinds in _FACTS.items():
        value: Any = facts
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if type(value) not in kinds:
            raise UserError(
                f"{path} is damaged: {name} cannot be {shortened(repr(value), 600)}. Export the bundle again."
            )
    lengths = SimpleNamespace(**facts["generation"])
    check_ranges(lengths, ("max_new_tokens", "temperature"), f"{path} is damaged: generation.{{}}={{}}")


def _check_inside(folder: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or "\\" in name or ":" in parts[0] or PurePosixPath(name).is_absolute():
        raise UserError(
            f"{folder}: the manifest names {name!r}, which lies outside the bundle: do not use this bundle."
        )


def _all_files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    )


def _files_in(folder: Path) -> list[str]:
    """Names of the files that a manifest speaks for: not itself, nor what git, the hub or a desktop hides in a folder."""
    names = (name for name in _all_files(folder) if name != MANIFEST and not name.startswith("."))
    return [name for name in names if (folder / name).is_file()]  # not a link to nowhere
