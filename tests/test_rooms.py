"""The order of the rooms: each folder of ex2 imports only from those below it, and no module takes part in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the ground up. `commands` are the doors, with `cli` and `launch`; docs/architecture.md says what each room is for.
ROOMS = (
    "base", "stats", "texts", "vlm", "rl", "data", "options", "scoring", "policy", "rewards", "zero_shot", "analysis", "run",
    "export", "commands",
)  # fmt: skip
LOOSE = {"__init__", "cli", "launch"}  # modules directly in ex2/
MOVED = {"descriptions", "errors", "pairs"}  # names of 0.1 that warn; they go with 0.3


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package `ex2` below `root` by its dotted name."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((root / "ex2").rglob("*.py"))
    }


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[tuple[int, str]]:
    """Line and name of each module of ex2 that a module imports, wherever: at the top, in functions, for types."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "ex2")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ex2":
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in known else node.module


def floor(module: str) -> int:
    room = module.split(".")[1]
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def wrong_ways(root: Path) -> list[str]:
    """Each import that goes up or out, with its place and the reason."""
    known, found = modules(root), []
    for name, path in known.items():
        if name == "ex2":
            continue  # the public face
        for line, target in imports(path, known):
            where = f"{path.relative_to(root)}:{line} imports {target}"
            if target == "ex2":
                found.append(f"{where}: the public face is for users; import the module itself.")
            elif floor(target) > floor(name):
                own, other = name.split(".")[1], target.split(".")[1]
                found.append(f"{where}: {own} lies below {other}, and a room imports only from rooms below it.")
            elif target in known and known[target].name == "__init__.py" and name.startswith(f"{target}."):
                found.append(f"{where}: a room's own face; import the module itself.")
    return found


def circle(root: Path) -> list[str]:
    """Modules that import each other in a circle, the first twice; empty where there is none."""
    known = modules(root)
    arrows = {name: {t for _, t in imports(path, known) if t in known} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in done:
            for target in sorted(arrows[name]):
                if found := visit(target, (*way, name)):
                    return found
            done.add(name)
        return []

    return next((found for name in arrows if (found := visit(name, ()))), [])


def test_every_module_has_a_room() -> None:
    packages = {path.name for path in (ROOT / "ex2").iterdir() if (path / "__init__.py").is_file()}
    assert packages == {*ROOMS, "assets"}
    assert {path.stem for path in (ROOT / "ex2").glob("*.py")} <= LOOSE | MOVED


def test_rooms_import_only_from_below() -> None:
    assert wrong_ways(ROOT) == []


def test_no_module_takes_part_in_a_circle() -> None:
    assert circle(ROOT) == []


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Three modules in order."""
    for name, text in {
        "base/errors.py": "",
        "vlm/base.py": "from ex2.base.errors import UserError\n",
        "rl/objectives.py": "import torch\n",
    }.items():
        path = tmp_path / "ex2" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        (path.parent / "__init__.py").touch()
    (tmp_path / "ex2" / "__init__.py").touch()
    assert wrong_ways(tmp_path) == circle(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize(
    "line",
    ["from ex2.rl.objectives import gae", "    from ex2.rl import objectives", "import ex2.rl.objectives"],
)
def test_a_wrong_import_is_named(house: Path, line: str) -> None:
    path = house / "ex2" / "vlm" / "base.py"
    path.write_text(f"def f():\n{line}\n" if line.startswith(" ") else f"\n{line}\n")
    assert wrong_ways(house) == [
        "ex2/vlm/base.py:2 imports ex2.rl.objectives: vlm lies below rl, and a room imports only from rooms below it."
    ]


def test_a_circle_within_a_room_is_named(house: Path) -> None:
    (house / "ex2" / "rl" / "guards.py").write_text("from ex2.rl import objectives\n")
    (house / "ex2" / "rl" / "objectives.py").write_text("def f():\n    from ex2.rl.guards import Guards\n")
    assert circle(house) == ["ex2.rl.guards", "ex2.rl.objectives", "ex2.rl.guards"]
