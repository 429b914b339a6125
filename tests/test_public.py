"""The public face: what users import, how quickly, and what moved."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FACES = sorted(".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "ex2").rglob("__init__.pyi"))


def in_new_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_importing_ex2_is_quick_and_imports_no_torch() -> None:
    code = (
        "import time; start = time.perf_counter(); import ex2; seconds = time.perf_counter() - start\n"
        "import sys; print(seconds, sorted({'torch', 'numpy', 'transformers', 'trl'} & set(sys.modules)))"
    )
    runs = [in_new_process(code).split(maxsplit=1) for _ in range(3)]
    assert {loaded.strip() for _, loaded in runs} == {"[]"}
    assert min(float(seconds) for seconds, _ in runs) < 0.2


def test_faces_import_nothing_before_it_is_asked_for() -> None:
    code = f"import sys; import {', '.join(FACES)}; print([name for name in sys.modules if name.startswith('ex2.') and "
    code += f"name not in {FACES}])"
    assert in_new_process(code).strip() == "[]"


def test_what_everyone_needs_is_at_the_top() -> None:
    import ex2

    wanted = {
        "PPOTrainer", "PPOConfig", "load_vlm", "load_images", "build_bank", "TextScorer", "generate", "analyse", "classify",
        "fudd", "DescriptionGenerator",
    }  # fmt: skip
    assert wanted <= set(ex2.__all__)


@pytest.mark.parametrize("face", FACES)
def test_every_public_name_is_there_with_a_docstring(face: str) -> None:
    package = importlib.import_module(face)
    assert sorted(package.__all__) == stub_names(face)
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        found = getattr(package, name)
        assert not isinstance(found, type(sys)), f"{face}.{name} is a module: a function of its name would be hidden"
        if callable(found) and type(found).__module__ != "typing":
            assert found.__doc__, f"{face}.{name}"


def stub_names(face: str) -> list[str]:
    tree = ast.parse((ROOT / Path(*face.split(".")) / "__init__.pyi").read_text(encoding="utf-8"))
    (listed,) = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    names = ast.literal_eval(listed)
    assert names == sorted(names)
    return names


def test_mathematics_of_ppo_by_its_names() -> None:
    from ex2.rl import gae, masked_whiten

    assert gae.__module__ == masked_whiten.__module__ == "ex2.rl.objectives"


# ---------------------------------------------------------------- documents


def documents() -> Iterator[tuple[str, str]]:
    """Name and text of each page, and of the code of each notebook and example."""
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.py")):
        yield path.name, path.read_text(encoding="utf-8")
    for path in ROOT.glob("analysis/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield path.name, "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_what_documents_import_is_public() -> None:
    found = [
        (name, package, public.strip())
        for name, text in documents()
        for package, names in re.findall(r"^\s*(?:>>> )?from (ex2[\w.]*) import ([\w, ]+)", text, flags=re.MULTILINE)
        for public in names.split(",")
    ]
    assert len(found) > 10
    assert [entry for entry in found if entry[1] not in FACES or entry[2] not in stub_names(entry[1])] == []


@pytest.mark.parametrize("name", ["descriptions", "errors", "pairs"])
def test_documented_names_of_before_still_work_with_a_warning(name: str) -> None:
    sys.modules.pop(f"ex2.{name}", None)
    with pytest.warns(DeprecationWarning, match=rf"ex2\.{name} is now ex2\.(texts|base)\.{name}: import from ex2"):
        old = importlib.import_module(f"ex2.{name}")
    new = importlib.import_module(f"ex2.{'base' if name == 'errors' else 'texts'}.{name}")
    for public in ("UserError", "read_descriptions", "read_pairs"):
        assert getattr(old, public, None) is getattr(new, public, None)
