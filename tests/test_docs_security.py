"""docs/security.md: each claim names a test, each test is there, and what no other test holds is held here."""

from __future__ import annotations

import ast
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ex2.base.files import sha256, to_json
from ex2.rl.checkpoints import MANIFEST
from tests.base.test_weights import Attack

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def claims() -> list[str]:
    """Bullets and rows of tables."""
    bullets = re.findall(r"^- .*(?:\n  .*)*", PAGE, re.MULTILINE)
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| file", "| ---"))]
    return [*bullets, *rows]


def test_each_claim_names_a_test() -> None:
    assert len(claims()) > 30
    assert [claim for claim in claims() if not TEST.search(claim)] == []


def test_each_test_is_there() -> None:
    for file, name in TEST.findall(PAGE):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_checkpoints_are_read_by_the_restricted_unpickler(
    name: str,
    trained_run: Path,
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    refused: Callable[[list[str]], str],
) -> None:
    """Also where the checksums are right, as a stranger would have made them."""
    run = shutil.copytree(trained_run, tmp_path / "run")
    shutil.rmtree(run / "checkpoint-4")
    checkpoint = run / "checkpoint-2"
    (checkpoint / name).write_bytes(pickle.dumps(Attack(f"touch {tmp_path / 'ran'}"), protocol=2))
    manifest = {
        "sizes": {path.name: path.stat().st_size for path in checkpoint.iterdir() if path.name != MANIFEST},
        "sha256": {path.name: sha256(path) for path in checkpoint.iterdir() if path.name != MANIFEST},
    }
    (checkpoint / MANIFEST).write_bytes(to_json(manifest))
    line = ["train", *arguments(run, before_after=False), "--resume_from_checkpoint", "true"]
    assert "checkpoint-2" in refused(line)
    assert not (tmp_path / "ran").exists()
