"""Files beside the code that repeat what others say: they say the same."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_hooks_before_a_commit_are_what_make_check_runs() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", _read("Makefile"), re.MULTILINE)
    assert recipe is not None
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    (repository,) = yaml.safe_load(_read(".pre-commit-config.yaml"))["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == commands


def test_the_citation_is_of_this_version_and_paper() -> None:
    citation = yaml.safe_load(_read("CITATION.cff"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    paper = citation["preferred-citation"]["url"]
    assert PROJECT["urls"]["Paper"] == paper
    assert set(re.findall(r"https://arxiv\.org/abs/[\d.]+", _read("README.md"))) == {paper}


def test_constraints_fix_every_dependency_that_make_installs() -> None:
    fixed = {line.partition("==")[0].lower().replace("_", "-") for line in _read("constraints.txt").splitlines()}
    needed = (
        PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"] + PROJECT["optional-dependencies"]["docs"]
    )
    names = {re.split(r"[<>=\[;]", line)[0].lower().replace("_", "-") for line in needed}
    assert names - fixed == {"ex2"}
    assert "://" not in _read("constraints.txt")


def _versions(name: str) -> dict[str, str]:
    pairs = [line.split("==") for line in _read(name).splitlines() if line[:1] != "#"]
    return {package.lower().replace("_", "-"): version for package, version in pairs}


def test_constraints_for_vllm_are_within_the_ranges_and_differ_where_it_asks_for_it() -> None:
    with_vllm, without = _versions("constraints-vllm.txt"), _versions("constraints.txt")
    differing = {name for name in with_vllm.keys() & without.keys() if with_vllm[name] != without[name]}
    assert differing == {"torch", "torchvision", "numpy"}
    for requirement in map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["vllm"]):
        assert with_vllm[requirement.name.lower().replace("_", "-")] in requirement.specifier, requirement
    assert not [name for name in with_vllm if name.startswith(("nvidia", "cuda"))]  # torch names those of its build


@pytest.mark.slow
@pytest.mark.skipif("EX2_TEST_INDEX" not in os.environ, reason="asks the package index for minutes: EX2_TEST_INDEX=1")
def test_vllm_can_be_installed() -> None:
    """Asks the package index, which is asked for nothing else in these tests."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    index = subprocess.run([*pip, "index", "versions", "vllm"], capture_output=True, text=True, timeout=120)
    if index.returncode:
        pytest.skip("no package index is reachable")
    # What is in the environment already counts for nothing, and of packages only their metadata are fetched.
    dry_run = [*pip, "install", "--dry-run", "--ignore-installed", "--no-build-isolation", "--use-feature=fast-deps"]
    found = subprocess.run(
        [*dry_run, "-c", "constraints-vllm.txt", ".[vllm]"], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert re.search(r"Would install .* vllm-0\.\d+", found.stdout)


def test_the_site_has_every_page_and_every_public_face() -> None:
    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        children = entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else []
        return [page for child in children for page in pages(child)]

    found = pages(yaml.safe_load(_read("mkdocs.yml"))["nav"])
    assert len(found) == len(set(found))
    assert {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} <= set(found)
    faces = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "ex2").rglob("__init__.pyi")}
    assert {page.removeprefix("api/").removesuffix(".md") for page in found if page.startswith("api/")} == faces


def test_contributing_names_what_is_there() -> None:
    text = _read("CONTRIBUTING.md")
    names = re.findall(r"`([^`\n]+)`", text)
    for path in (name for name in names if re.fullmatch(r"[\w./]+\.(py|md|txt)|\.ci/\w+", name)):
        assert path == "__init__.pyi" or (ROOT / path).is_file(), path
    code = "\n".join(
        path.read_text(encoding="utf-8") for room in ("ex2", "tests") for path in (ROOT / room).rglob("*.py")
    )
    for name in (name for name in names if re.fullmatch(r"[A-Z]\w+|_\w+", name)):
        assert re.search(rf"^\s*(class|def) {name}\b|^{name}\b.*=", code, re.MULTILINE), name
    rooms = re.search(r"^ROOMS = (\(.*?\n\))", _read("tests/test_rooms.py"), re.MULTILINE | re.DOTALL)
    listed = re.search(r"from the ground up:\n\n(.*?);", text, re.DOTALL)
    assert rooms is not None
    assert listed is not None
    assert tuple(re.findall(r"`(\w+)`", listed[1])) == ast.literal_eval(rooms[1])


def test_public_ci_runs_the_targets_of_make_on_every_python_that_is_supported() -> None:
    workflow = yaml.safe_load(_read(".github/workflows/ci.yml"))
    jobs = workflow["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    targets = [match[1] for step in steps for match in re.finditer(r"\bmake (\w+)", step.get("run", ""))]
    ours = re.findall(r"^make (\w+)", _read(".ci/run"), re.MULTILINE)
    assert sorted(targets) == sorted(ours)
    for target in targets:
        assert re.search(rf"^{target}:", _read("Makefile"), re.MULTILINE)
    versions = jobs["test"]["strategy"]["matrix"]["python"]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    for version in versions:
        assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert workflow["permissions"] == {"contents": "read"}


def test_pages_are_tried_in_a_browser_where_tests_run_by_themselves() -> None:
    """tests/browser.py skips what it has no Playwright or Chromium for; the machines of public CI come with Chrome."""
    assert any(line.startswith("playwright") for line in PROJECT["optional-dependencies"]["dev"])
    assert re.search(r"apt-get install .*\bchromium\b", _read(".ci/run"))
    workflow = yaml.safe_load(_read(".github/workflows/ci.yml"))
    assert workflow["jobs"]["test"]["runs-on"].startswith("ubuntu")


def test_make_says_in_one_line_what_it_sets_up(tmp_path: Path) -> None:
    """With programs that do nothing in place of Python's: the quickstart's log is to fit on a screen."""
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\nmkdir -p "$3/bin"\nfor name in python ex2; do\n'
        '  printf "#!/bin/sh\\n" > "$3/bin/$name"; chmod +x "$3/bin/$name"\ndone\n'
    )
    python.chmod(0o755)
    line = ["make", "--no-print-directory", "quickstart", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    printed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed[0].startswith(f"Installing into {tmp_path / 'venv'}: ")
    assert printed[1].endswith("ex2 study --config configs/quickstart.yaml --overwrite false")
    assert len(printed) == 2


def test_the_container_installs_what_make_installs() -> None:
    """Not built by the tests. Its steps are those of the Makefile, on a copy of the repository."""
    text = _read("Dockerfile")
    for name in re.findall(r"/src/([\w.-]+)", text):
        assert (ROOT / name).is_file(), name
    installs = re.findall(r"pip install --no-cache-dir (.*?)(?: \\)?$", text, re.MULTILINE)
    made = re.findall(r"^\t\$\(INSTALL\) (.*)$", _read("Makefile"), re.MULTILINE)
    assert [line.replace("/src/", "").replace("/src", "-e .") for line in installs] == made[:2]
    ignored = set(_read(".dockerignore").split())
    assert {".git", ".venv", "runs"} <= ignored
    assert set(re.findall(r"^ARG (\w+)=", text, re.MULTILINE)) == {"PYTHON", "DEVICE"}
    assert re.search(r"^ARG PYTHON=([\d.]+)$", text, re.MULTILINE)[1] == PROJECT["requires-python"].removeprefix(">=")
