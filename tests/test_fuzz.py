"""Short parts of the fuzzers; the whole: `python -m tests.fuzz.images` and `python -m tests.fuzz.files`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.files import readers, tried
from tests.fuzz.images import ENDINGS, check, write


def test_mutated_images_are_read_or_named(tmp_path: Path) -> None:
    assert len(ENDINGS) >= 20
    read, skipped = check(write(tmp_path / "set", 6 * len(ENDINGS), seed=1), tmp_path / "cache")
    assert sum(skipped.values()) > 50
    assert sum(read.values()) > 50


@pytest.mark.parametrize("kind", [kind for kind in readers() if kind != "options"])  # those take long
def test_mutated_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    outcomes = tried(kind, tmp_path, 60, seed=1)
    assert outcomes["traceback"] == 0
    assert outcomes["refused"] > 5
