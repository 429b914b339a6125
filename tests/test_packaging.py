"""The wheel holds what a user needs and no more, and works far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ex2.base.shipped import shipped_configs

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with the hatchling that is installed."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like site-packages with nothing but the wheel's content."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_configs_scripts_assets_and_types_travel_along(unpacked: Path) -> None:
    files = _files(unpacked)
    for folder in ("configs", "accelerate_configs"):
        own = {f"ex2/{folder}/{name}" for name in _files(ROOT / folder)}
        assert own
        assert own <= files
    assert {f"ex2/train/{name}_ex2.py" for name in ("ppo", "grpo", "rloo")} <= files
    assert {"ex2/py.typed", "ex2/requirements-embedded.txt", "ex2/assets/report/report.html.j2"} <= files
    source = [path for path in (ROOT / "ex2").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in source} <= files  # code, stubs, images, weights, sentences
    for name in ("requirements-embedded.txt", "configs/quickstart.yaml", "train/ppo_ex2.py"):
        assert (unpacked / "ex2" / name).read_bytes() == (ROOT / name).read_bytes()


def test_nothing_else_does(unpacked: Path) -> None:
    tops = {name.split("/")[0] for name in _files(unpacked)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ex2"}
    inside = {name.split("/")[1] for name in _files(unpacked / "ex2") if "/" in name} | {
        path.name for path in (unpacked / "ex2").iterdir()
    }
    assert not {"tests", "docs", "benchmarks", "tools", "runs", "site"} & inside
    assert not [name for name in _files(unpacked) if name.endswith((".pyc", ".ipynb"))]


def _run(unpacked: Path, cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in another folder, with the wheel's content before the checkout."""
    environment = os.environ | {"PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result


def _ex2(unpacked: Path, cwd: Path, *line: str) -> str:
    code = "import sys, ex2, ex2.cli; print(ex2.__file__); ex2.cli.main(sys.argv[1:])"
    file, _, rest = _run(unpacked, cwd, "-c", code, *line).stdout.partition("\n")
    assert Path(file) == unpacked / "ex2" / "__init__.py"
    return rest


def test_the_command_works_elsewhere(unpacked: Path, tmp_path: Path) -> None:
    listed = _ex2(unpacked, tmp_path, "list", "configs").splitlines()[1:]
    assert [row.split()[0] for row in listed] == list(shipped_configs())
    dry = _ex2(unpacked, tmp_path, "train", "--config", "quickstart", "--dry_run", "true")
    assert "Dry run of PPO: nothing is loaded" in dry
    assert "output_dir: runs/quickstart" in dry
    assert f"{unpacked / 'ex2' / 'accelerate_configs'}" in _ex2(unpacked, tmp_path, "train", "--help")
    assert "pictograms" in _ex2(unpacked, tmp_path, "list", "datasets")
    assert list(tmp_path.iterdir()) == []


def test_training_scripts_are_modules(unpacked: Path, tmp_path: Path) -> None:
    """As `accelerate launch -m` starts them."""
    line = ["--config", "quickstart_grpo", "--dry_run", "true"]
    assert "Dry run of GRPO" in _run(unpacked, tmp_path, "-m", "ex2.train.grpo_ex2", *line).stdout


def test_the_message_about_missing_models_names_a_file_of_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    code = "from ex2.base.shipped import embedded_models_command as command; print(command())"
    command = _run(unpacked, tmp_path, "-c", code).stdout.split()
    assert Path(command[-1]) == unpacked / "ex2" / "requirements-embedded.txt"
    assert Path(command[-1]).is_file()
