"""A bundle on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from ex2.export import Bundle, write_bundle


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "birds"
    write_bundle(bundle, out)
    return out
