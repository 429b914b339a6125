"""All cases, in the order in which they are tried."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import chain
from pathlib import Path

from tests.fuzz.damage import damaged_files
from tests.fuzz.environments import environments
from tests.fuzz.material import Material, basic, completed
from tests.fuzz.names import hostile_names
from tests.fuzz.options import walk_commands, walk_training
from tests.fuzz.promise import Case, run


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


def tried_part(part: int, parts: int, only: Sequence[str], listed: bool) -> tuple[Counter[str], ...]:
    """Try every `parts`-th case, from the `part`-th on: how many of each kind, how many as promised, seconds."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    tried: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as root:
        material = completed(basic_material(Path(root)), Path(root))
        for number, case in enumerate(all_cases(material)):
            if number % parts != part or (only and not any(word in f"{case.kind} {case.name}" for word in only)):
                continue
            folder = Path(root) / "cases" / str(number)
            folder.mkdir(parents=True)
            started = time.perf_counter()
            end = run(case, folder)
            seconds[case.kind] += time.perf_counter() - started
            complaint = end.complaint(case)
            tried[case.kind] += 1
            kept[case.kind] += complaint is None
            if complaint is not None or listed:
                print(f"{case.kind}: {case.name}: {complaint or end.lines or 'well'}", flush=True)
    return tried, kept, seconds
