"""All cases, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import chain
from pathlib import Path

from tests.fuzz.damage import damaged_files
from tests.fuzz.environments import environments
from tests.fuzz.material import Material, basic
from tests.fuzz.names import hostile_names
from tests.fuzz.options import walk_commands, walk_training
from tests.fuzz.promise import Case


def all_cases(material: Material) -> Iterator[Case]:
    """Every case; those that need what `material` lacks are left out."""
    return chain(
        walk_commands(material),
        walk_training(),
        damaged_files(material),
        hostile_names(material),
        environments(material),
    )


def basic_material(root: Path) -> Material:
    """A tiny LLM, images and a run, made in `root`."""
    from ex2.launch import main as train
    from tests.conftest import _save_tiny_llm, small_dataset, training_arguments

    llm, images = _save_tiny_llm(root / "llm", chat_template=None), small_dataset(root / "images")
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        train("ppo", training_arguments(llm, images, root / "run"))
    return basic(llm, images, root / "run", root)
