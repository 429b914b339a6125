"""The private names of TRL and transformers that EX2 uses are there in the installed versions, and all of them are listed."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from trl import GRPOTrainer, RLOOTrainer

from ex2.rl.trl_names import PRIVATE, PRIVATE_ELSEWHERE, OnlineTrainer, PrivateName, changed

EX2 = Path(__file__).resolve().parents[2] / "ex2"
LISTED = {private.name for private in (*PRIVATE, *PRIVATE_ELSEWHERE)}


def test_the_installed_versions_have_them_all() -> None:
    assert changed() == []


@pytest.mark.parametrize(
    ("private", "sentence"),
    [
        (
            PrivateName("_make_coffee", ("trl.GRPOTrainer",), "rollouts need it", ()),
            "trl.GRPOTrainer._make_coffee() is gone: rollouts need it.",
        ),
        (
            PrivateName("_coffee", ("trl.RLOOTrainer",), "rollouts need it"),
            "trl.RLOOTrainer._coffee is gone: rollouts need it.",
        ),
        (
            PrivateName("_compute_loss", ("trl.GRPOTrainer",), "PPO's own", ("model", "batch")),
            "trl.GRPOTrainer._compute_loss() takes self, model, inputs, not model, batch: PPO's own.",
        ),
    ],
)
def test_one_that_changed_is_named_with_its_purpose(private: PrivateName, sentence: str) -> None:
    assert changed([private]) == [sentence]


def test_the_order_of_parameters_matters_and_further_ones_do_not() -> None:
    assert changed([PrivateName("_log_metric", ("trl.GRPOTrainer",), "", ("value", "name"))])
    assert not changed([PrivateName("_log_metric", ("trl.GRPOTrainer",), "", ("value",))])


def test_mixins_find_what_the_protocol_promises() -> None:
    promised = [name for name in vars(OnlineTrainer) if inspect.isfunction(vars(OnlineTrainer)[name])]
    assert {"compute_loss", "_save_checkpoint"} <= set(promised)
    for name in (name for name in promised if name not in ("__init__", "__subclasshook__", "_no_init_or_replace_init")):
        assert callable(getattr(GRPOTrainer, name)), name
        assert callable(getattr(RLOOTrainer, name)), name
        assert name in LISTED | {"compute_loss", "training_step"}


def private_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each private attribute that a module reads, and of each private method that its classes define."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ClassDef):
            yield from ((item.lineno, item.name) for item in node.body if isinstance(item, ast.FunctionDef))


def of_the_trainers(name: str) -> bool:
    """Whether TRL's trainers or transformers' Trainer have a private name."""
    return not changed([PrivateName(name, ("trl.GRPOTrainer",), "")])


def test_every_private_name_of_the_trainers_is_listed() -> None:
    """Which also holds EX2 to names that TRL does not use: `self._step` of a mixin of ours would break TRL's own."""
    modules = [*sorted((EX2 / "rl").glob("*.py")), EX2 / "run" / "trainers.py", EX2 / "run" / "training.py"]
    own = ("_name", "_paper", "_tag_names")  # TRL asks its trainers to say these of themselves
    stray = [
        f"{path.name}:{line} {name}"
        for path in modules
        for line, name in private_names(path)
        if name.startswith("_") and not name.startswith("__") and name not in LISTED and name not in own
        if of_the_trainers(name)
    ]
    assert stray == []
