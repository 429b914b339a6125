"""The run folder: whether it is free, and its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ex2.base.errors import UserError
from ex2.base.files import read_json
from ex2.options.parse import parse_options
from ex2.options.run_options import RunOptions
from ex2.run import folder as run_folder
from tests.kills import killed_before


@pytest.fixture
def options(arguments: Callable[..., list[str]], tmp_path: Path) -> RunOptions:
    return parse_options("ppo", arguments(tmp_path / "run"))


def start(options: RunOptions) -> None:
    """What a run writes before it trains."""
    run_folder.check_folder(options)
    run_folder.put_aside(options.output_dir)
    run_folder.write_config(options)
    run_folder.write_json(options.output_dir / "environment.json", {})


def test_a_new_or_empty_folder_is_free(options: RunOptions) -> None:
    run_folder.check_folder(options)
    assert not options.output_dir.exists()
    options.output_dir.mkdir()
    run_folder.check_folder(options)


def test_a_folder_whose_name_is_no_utf_8_is_refused(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    """tokenizers would fail at the first checkpoint, after the work."""
    options = parse_options("ppo", arguments(tmp_path / "v\udcf6gel"))
    with pytest.raises(
        UserError, match=r"^output_dir=.*gel: tokenizers are saved under names in UTF-8 only: name another"
    ):
        run_folder.check_folder(options)


def test_environment_of_a_set_whose_folder_is_no_utf_8(tmp_path: Path) -> None:
    run_folder.write_json(tmp_path / "environment.json", {"dataset": "folder:v\udcf6gel"})
    assert read_json(tmp_path / "environment.json") == {"dataset": "folder:v[U+DCF6]gel"}


def test_another_run_is_neither_mixed_nor_lost(options: RunOptions) -> None:
    start(options)
    with pytest.raises(UserError, match=r"already holds a run.*--resume_from_checkpoint true.*--overwrite true"):
        run_folder.check_folder(options)
    options.trainer.resume_from_checkpoint = "true"
    run_folder.check_folder(options)
    assert (options.output_dir / "config.yaml").is_file()


def test_overwriting_takes_away_the_run_and_nothing_else(options: RunOptions) -> None:
    start(options)
    for name in ("checkpoint-4/adapter/weights", "samples.jsonl", "before_after.png", "thesis.tex", "notes/day.txt"):
        (options.output_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (options.output_dir / name).touch()
    options.ex2.overwrite = True
    run_folder.check_folder(options)
    assert (options.output_dir / "samples.jsonl").exists()  # checking deletes nothing
    run_folder.put_aside(options.output_dir)
    aside = options.output_dir / run_folder.REPLACED
    assert (aside / "checkpoint-4/adapter/weights").exists()
    run_folder.forget_replaced(options.output_dir)
    assert tree(options.output_dir) == ["notes", "notes/day.txt", "thesis.tex"]


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_link_in_a_run_is_no_stumbling_block(options: RunOptions, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights").touch()
    for _ in range(3):  # the second time the failed attempt is deleted, the old run stays aside
        start_again(options)
        (options.output_dir / "checkpoint-2").symlink_to(tmp_path / "elsewhere")
        (options.output_dir / "samples.jsonl").symlink_to(tmp_path / "nowhere")
    run_folder.forget_replaced(options.output_dir)
    assert tree(options.output_dir) == ["checkpoint-2", "config.yaml", "environment.json", "samples.jsonl"]
    assert (tmp_path / "elsewhere" / "weights").exists()


def start_again(options: RunOptions) -> None:
    options.ex2.overwrite = True
    start(options)


def test_the_old_run_stays_until_the_new_one_has_a_checkpoint(options: RunOptions) -> None:
    start(options)
    (options.output_dir / "adapter").mkdir()
    start_again(options)
    start_again(options)  # the first attempt had no checkpoint
    assert tree(options.output_dir) == [
        "_replaced", "_replaced/adapter", "_replaced/config.yaml", "_replaced/environment.json", "config.yaml",
        "environment.json",
    ]  # fmt: skip
    state: Any = SimpleNamespace(is_world_process_zero=True, global_step=2, max_steps=4)
    run_folder.RunLog(options).on_save(options.trainer, state, None)  # type: ignore[arg-type]
    assert tree(options.output_dir) == ["config.yaml", "environment.json"]


def test_a_kill_leaves_the_old_run_or_the_new(options: RunOptions) -> None:
    """At any moment the old run is whole, in its place or aside, and the same command takes up what is there."""
    start(options)
    old = {"adapter/weights", "checkpoint-4/adapter", "samples.jsonl", "config.yaml", "environment.json"}
    folder, operation = options.output_dir, 1
    for name in old - {"config.yaml", "environment.json"}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    options.ex2.overwrite = True

    def replace() -> None:
        with run_folder.taken(options):
            run_folder.put_aside(folder)
            run_folder.write_config(options)

    while killed_before(operation, replace, str(folder)):
        with run_folder.taken(options):  # the next start
            place = folder / run_folder.REPLACED if (folder / run_folder.REPLACED).is_dir() else folder
            assert old <= set(tree(place))
            assert run_folder.holds_run(folder)
        operation += 1
    assert operation > 8
    assert ".ex2" not in "".join(tree(folder))


def test_a_start_that_was_killed_is_a_run(options: RunOptions) -> None:
    def begin() -> None:
        with run_folder.taken(options):
            run_folder.put_aside(options.output_dir)
            run_folder.write_config(options)
            run_folder.write_json(options.output_dir / "environment.json", {})

    operation = 1
    while killed_before(operation, begin, str(options.output_dir)):
        options.ex2.overwrite = True
        with run_folder.taken(options):
            pass
        operation += 1
    assert operation > 5


def test_two_processes_do_not_share_a_folder(options: RunOptions) -> None:
    options.ex2.overwrite = True
    with run_folder.taken(options):
        with (
            pytest.raises(UserError, match=r"^output_dir .*/run is in use by process \d+ on "),
            run_folder.taken(options),
        ):
            pass
        start(options)
    assert tree(options.output_dir) == ["config.yaml", "environment.json"]


@pytest.mark.parametrize("name", ["thesis.tex", "config.yaml"])
def test_a_folder_that_holds_no_run_is_refused(options: RunOptions, name: str) -> None:
    options.output_dir.mkdir()
    (options.output_dir / name).write_text("vlm: pictogram\n")
    (options.output_dir / "environment.json").write_text("{}")  # of another program
    for overwrite in (False, True):
        options.ex2.overwrite = overwrite
        with pytest.raises(UserError, match="is not empty and holds no run: choose another folder"):
            run_folder.check_folder(options)
    assert (options.output_dir / name).exists()


def test_a_run_is_not_resumed_as_another_run(options: RunOptions) -> None:
    start(options)
    options.trainer.resume_from_checkpoint = "true"
    options.trainer.learning_rate *= 2  # may change
    run_folder.check_folder(options)
    options.ex2.reward_scale = 7.0
    options.policy.lora_r = 3
    with pytest.raises(
        UserError, match=r"holds another run: reward_scale was 100\.0, is 7\.0; lora_r was \d+, is 3\. Go on with the"
    ):
        run_folder.check_folder(options)


def test_resuming_needs_a_run(options: RunOptions) -> None:
    options.trainer.resume_from_checkpoint = "true"
    with pytest.raises(UserError, match=r"resume_from_checkpoint is set, but output_dir=.* holds no run"):
        run_folder.check_folder(options)


def test_config_is_yaml_with_every_option(options: RunOptions) -> None:
    start(options)
    text = (options.output_dir / "config.yaml").read_text()
    assert text.startswith("# Resolved options of this PPO run\n")
    assert yaml.safe_load(text) == options.as_dict()


def test_environment_names_versions_and_facts() -> None:
    found = run_folder.environment(seed=3)
    assert found["seed"] == 3
    assert found["packages"]["torch"]
    assert found["devices"]
    assert json.loads(json.dumps(found)) == found


def test_rows_survive_odd_characters_and_a_killed_writer(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert run_folder.read_jsonl(path) == []
    rows = [{"text": "one\u2028two\x85three"}, {"text": "four"}]
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(whole + '{"text": "fi', encoding="utf-8")
    assert run_folder.read_jsonl(path) == rows
    path.write_text('{"text": "fi\n' + whole, encoding="utf-8")
    with pytest.raises(UserError, match=r"rows.jsonl:1 is damaged: broken JSON"):
        run_folder.read_jsonl(path)


def test_numbers_that_are_none_are_not_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_folder.write_json(tmp_path / "x.json", {"a": float("nan")})


def test_a_resumed_log_drops_what_is_run_again(options: RunOptions) -> None:
    start(options)
    metrics, samples = options.output_dir / "metrics.jsonl", options.output_dir / "samples.jsonl"
    metrics.write_text("".join(f'{{"step": {step}}}\n' for step in (1, 2, 3, 4)))
    samples.write_text("".join(f'{{"step": {step}}}\n' for step in (0, 0, 2, 2)))
    state: Any = SimpleNamespace(is_world_process_zero=True, global_step=2, max_steps=4)
    log = run_folder.RunLog(options)
    log.on_train_begin(options.trainer, state, None)  # type: ignore[arg-type]
    state.global_step = 3
    log.on_step_end(options.trainer, state, None)  # type: ignore[arg-type]
    log.on_log(options.trainer, state, None, logs={"kl": 0.5, "note": "no number"})  # type: ignore[arg-type]
    log.on_train_end(options.trainer, state, None)  # type: ignore[arg-type]
    rows = run_folder.read_jsonl(metrics)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["kl"] == 0.5
    assert rows[-1]["sampled_texts"] == 16  # update 3 is in the second rollout of 8
    assert "note" not in rows[-1]
    assert [row["step"] for row in run_folder.read_jsonl(samples)] == [0, 0]


def test_only_the_main_process_writes(options: RunOptions) -> None:
    state: Any = SimpleNamespace(is_world_process_zero=False, global_step=0, max_steps=4)
    log = run_folder.RunLog(options)
    log.on_train_begin(options.trainer, state, None)  # type: ignore[arg-type]
    log.on_log(options.trainer, state, None, logs={"kl": 1.0})  # type: ignore[arg-type]
    assert not options.output_dir.exists()


def test_a_policy_that_sheds_words_is_told_of_once(options: RunOptions, capsys: pytest.CaptureFixture[str]) -> None:
    options.output_dir.mkdir()
    trainer: Any = options.trainer

    def log(words: list[float], first_step: int) -> str:
        run_log = run_folder.RunLog(options)
        state: Any = SimpleNamespace(global_step=first_step - 1, max_steps=40, is_world_process_zero=True)
        run_log.on_train_begin(trainer, state, None)  # type: ignore[arg-type]
        for step, number in enumerate(words, first_step):
            state.global_step = step
            run_log.on_log(trainer, state, None, {"monitors/words": number, "monitors/distinct_2": 0.8})  # type: ignore[arg-type]
        run_log.close()
        return capsys.readouterr().err

    assert "warning" not in log([20, 20, 8, 8, 8], 1)
    said = log([8, 8], 6)  # resumed: the rows before count
    assert said.count("warning: step 6: texts have 8.0 words, 20.0 at first: the policy sheds words") == 1
    assert "warning" not in log([8], 8)
