"""Names of a training's options, read from the source of their dataclasses: to import those takes seconds, a slip should not.

`tests/options/test_names.py` compares them with the dataclasses themselves.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_TRAINERS = {"ppo": ("ex2.rl.ppo_config", "PPOConfig"), "grpo": ("trl", "GRPOConfig"), "rloo": ("trl", "RLOOConfig")}
_SHARED = (("ex2.options.ex2_options", "EX2Config"), ("ex2.options.policy_options", "PolicyConfig"))


def option_names(algorithm: str) -> set[str]:
    """The names of all options of a training with `algorithm`: EX2's, the policy's and the trainer's."""
    return set().union(*(_fields(*which) for which in (*_SHARED, _TRAINERS[algorithm])))


@cache
def _fields(module: str, name: str) -> frozenset[str]:
    """Names of the fields of a dataclass and of its bases, as `module` defines or imports it."""
    path = _source(module)
    tree = ast.parse(path.read_bytes())
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            own = {
                ast.unparse(line.target) for line in node.body if isinstance(line, ast.AnnAssign) and _is_taken(line)
            }
            bases = (_fields(module, base.id) for base in node.bases if isinstance(base, ast.Name))
            return frozenset(own.union(*bases))
    for part in ast.walk(tree):  # packages that import their parts on first use name them for type checkers
        if isinstance(part, ast.ImportFrom) and name in {alias.asname or alias.name for alias in part.names}:
            package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            above = package[: len(package) - part.level + 1] if part.level else []
            return _fields(".".join([*above, *filter(None, [part.module])]), name)
    raise LookupError(f"{path} has no class {name}")


def _source(module: str) -> Path:
    """The file of a module, found without importing the packages that it lies in."""
    package, *parts = module.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise LookupError(f"{package} is not installed")
    place = Path(spec.origin).parent.joinpath(*parts)
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _is_taken(field: ast.AnnAssign) -> bool:
    """Whether the constructor takes a field."""
    words = field.value.keywords if isinstance(field.value, ast.Call) else []
    return not any(word.arg == "init" and ast.unparse(word.value) == "False" for word in words)
