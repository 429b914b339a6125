"""Where a policy's settings come from: its run, its adapter, or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ex2.base.errors import UserError
from ex2.policy.asks import Ask
from ex2.policy.source import find_policy, load_generator
from ex2.texts.questions import QUESTION_SETS

ASKS = [Ask(i, name, "Describe a {}.") for i, name in enumerate(("puffin", "tiger", "hammer", "cat", "axe"))]


def test_the_base_of_a_policy_is_asked_in_the_same_way(trained_run: Path, tiny_llm: Path) -> None:
    policy = find_policy(str(trained_run))
    base = policy.base
    assert (base.name, base.adapter, base.fingerprint) == (str(tiny_llm), None, "")
    assert (base.settings, base.questions) == (policy.settings, policy.questions)
    assert base.base is base
    plain, _ = load_generator(str(tiny_llm), overrides={"max_completion_length": 8})
    assert list(base.load().sample(ASKS, seed=0)) == list(plain.sample(ASKS, seed=0))


def test_a_run_brings_its_settings(trained_run: Path) -> None:
    run = find_policy(str(trained_run))
    assert run.adapter == trained_run / "adapter"
    assert (run.max_new_tokens, run.temperature, run.questions) == (8, 1.0, QUESTION_SETS["short"])
    assert len(run.fingerprint) == 16
    checkpoint = find_policy(str(trained_run / "checkpoint-2"))
    assert checkpoint.settings == run.settings
    assert checkpoint.fingerprint != run.fingerprint
    assert find_policy(str(trained_run / "adapter")).fingerprint == run.fingerprint
    other = find_policy(str(trained_run), {"questions": "study", "max_completion_length": 5, "temperature": None})
    assert (len(other.questions), other.max_new_tokens, other.temperature) == (25, 5, 1.0)


def test_an_adapter_away_from_its_run_names_its_base_model(trained_run: Path, tmp_path: Path, tiny_llm: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in (trained_run / "adapter").iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    found = find_policy(str(moved))
    assert found.settings == {}
    here, there = found.load(), find_policy(str(trained_run), {"max_completion_length": 32}).load()
    assert list(here.sample(ASKS, seed=0)) == list(there.sample(ASKS, seed=0))
    plain, _ = load_generator(str(tiny_llm))
    assert list(plain.sample(ASKS, seed=0)) != list(here.sample(ASKS, seed=0))
    (moved / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no weights: adapter_model.safetensors is missing"):
        find_policy(str(moved))


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model_name_or_path": "smollm2"}))
    with pytest.raises(
        UserError, match="has not finished: it holds no adapter. Resume it, or name one of its checkpoints"
    ):
        find_policy(str(tmp_path))


def test_nothing_of_that_name() -> None:
    with pytest.raises(
        UserError, match=r"RUN_OR_MODEL=runs/absent: .* could not be fetched from the hub: use a local folder"
    ):
        load_generator("runs/absent")


def test_the_base_of_a_run_is_the_revision_that_it_was_trained_on(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"model_revision": "v2"}))
    asked: list[tuple[str, str]] = []

    def resolve(name: str, cache_dir: str | None, revision: str = "main", option: str = "") -> str:
        asked.append((name, revision))
        return name

    monkeypatch.setattr("ex2.policy.source.resolve_model", resolve)
    policy = find_policy(str(run))
    policy.base_path(None)
    policy.base.base_path(None)
    find_policy(config["model_name_or_path"]).base_path(None)
    base = config["model_name_or_path"]
    assert asked == [(base, "v2"), (base, "v2"), (base, "main")]


@pytest.mark.parametrize("damage", ["cut off", "flipped"])
@pytest.mark.parametrize("name", ["adapter", "checkpoint-4"])
def test_a_damaged_adapter_is_seen_before_it_is_used(
    damage: str, name: str, trained_run: Path, tmp_path: Path, refused: Callable[[list[str]], str]
) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    weights = tmp_path / "run" / name / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 64
    weights.write_bytes(content[:-100] if damage == "cut off" else content)
    source = tmp_path / "run" if name == "adapter" else tmp_path / "run" / name
    commands = [["generate", str(source), "--out", str(tmp_path / "texts.jsonl")]]
    if name == "adapter":
        commands += [["export", str(source), "--out", str(tmp_path / "bundle"), "--no_descriptions"]]
    for line in commands:
        assert f"{weights.parent} is damaged: adapter_model.safetensors has " in refused(line)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_what_lies_beside_an_adapter_s_weights_may_be_edited(trained_run: Path, tmp_path: Path) -> None:
    """The base moved, or somebody wrote a README; of a checkpoint only the adapter was copied."""
    adapter = shutil.copytree(trained_run / "adapter", tmp_path / "adapter")
    (adapter / "README.md").write_text("Mine.\n")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"revision": None}))
    assert find_policy(str(adapter)).fingerprint == find_policy(str(trained_run)).fingerprint


def test_an_adapter_without_checksums_is_read_unless_it_is_cut_off(trained_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(trained_run / "adapter", folder)
    (folder / "manifest.json").unlink()
    assert find_policy(str(folder)).fingerprint == find_policy(str(trained_run)).fingerprint
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"is damaged: adapter_model\.safetensors cannot be read"):
        find_policy(str(folder))
