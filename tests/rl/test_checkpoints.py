"""Checkpoints on disk: what is whole, what is taken, what goes."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from ex2.base.errors import UserError
from ex2.rl.checkpoints import (
    MANIFEST,
    UNFINISHED,
    checkpoints,
    clean_up,
    damage,
    discard,
    finish,
    newest_whole,
    rotate,
)
from ex2.rl.resume import state_of


def write(run: Path, step: int, content: str = "weights") -> Path:
    """A finished checkpoint of three files, one in a sub-folder; each is written a second after the one before."""
    unfinished = run / UNFINISHED / f"checkpoint-{step}"
    for name in ("adapter.safetensors", "optimizer.pt", "shards/rank_0.pt"):
        (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
        (unfinished / name).write_text(f"{content} of {step} in {name}")
    finish(unfinished, run / f"checkpoint-{step}")
    os.utime(run / f"checkpoint-{step}", (step, step))
    return run / f"checkpoint-{step}"


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def test_a_finished_checkpoint_is_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, 3)
    assert damage(checkpoint) is None
    assert names(tmp_path) == ["checkpoint-3"]
    sizes = json.loads((checkpoint / MANIFEST).read_text())["sizes"]
    assert set(sizes) == {"adapter.safetensors", "optimizer.pt", "shards/rank_0.pt"}


def test_a_checkpoint_that_is_written_again_replaces_the_old_one(tmp_path: Path) -> None:
    (write(tmp_path, 3) / "stray").touch()
    checkpoint = write(tmp_path, 3, "new weights")
    assert (checkpoint / "optimizer.pt").read_text() == "new weights of 3 in optimizer.pt"
    assert not (checkpoint / "stray").exists()


@pytest.mark.parametrize("name", ["adapter.safetensors", "optimizer.pt", "shards/rank_0.pt", MANIFEST])
def test_damage_names_the_file(tmp_path: Path, name: str) -> None:
    checkpoint = write(tmp_path, 3)
    file = checkpoint / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    expected = f"{name} is broken" if name == MANIFEST else f"{name} has {len(whole) - 5} bytes instead of {len(whole)}"
    assert damage(checkpoint) == expected
    file.unlink()
    assert damage(checkpoint) == f"{name} is missing"


@pytest.mark.parametrize("name", ["adapter.safetensors", "optimizer.pt", "shards/rank_0.pt"])
def test_flipped_bytes_are_seen(tmp_path: Path, name: str) -> None:
    checkpoint = write(tmp_path, 3)
    content = bytearray((checkpoint / name).read_bytes())
    content[2] ^= 1
    (checkpoint / name).write_bytes(content)
    assert damage(checkpoint) == f"{name} has changed since it was written"


@pytest.mark.parametrize(
    "content", ["[]", '{"sizes": 3}', '{"sizes": {"a": null}}', '{"sizes": {}, "sha256": 1}', "[" * 5000]
)
def test_a_manifest_of_another_shape_is_broken(tmp_path: Path, content: str) -> None:
    (write(tmp_path, 3) / MANIFEST).write_text(content)
    assert damage(tmp_path / "checkpoint-3") == f"{MANIFEST} is broken"


def test_a_checkpoint_without_checksums_is_read(tmp_path: Path) -> None:
    manifest = write(tmp_path, 3) / MANIFEST
    manifest.write_text(json.dumps({"sizes": json.loads(manifest.read_text())["sizes"]}))
    assert damage(tmp_path / "checkpoint-3") is None


def test_the_newest_whole_checkpoint_is_taken_by_its_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (90, 100, 110):
        write(tmp_path, step)
    for name in ("checkpoint-120", "checkpoint-x", f"{UNFINISHED}/checkpoint-130"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "checkpoint-110" / "optimizer.pt").write_text("")
    assert list(checkpoints(tmp_path)) == [90, 100, 110, 120]
    with caplog.at_level(logging.WARNING):
        assert newest_whole(tmp_path).name == "checkpoint-100"
    assert caplog.messages == [
        "Going on from checkpoint-100: not whole are checkpoint-110 (optimizer.pt has 0 bytes instead of 30), checkpoint-120 "
        f"({MANIFEST} is missing)."
    ]


def test_machines_agree_on_a_checkpoint_that_all_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (4, 6, 8):
        write(tmp_path, step)
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: [*own, {4, 6}, {2, 4, 6}])
    with caplog.at_level(logging.WARNING):
        assert newest_whole(tmp_path).name == "checkpoint-6"
    assert "checkpoint-8 (missing or damaged on another machine)" in caplog.text


def test_without_a_whole_checkpoint_the_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no checkpoint to go on from\. Start again with --overwrite true\.$"):
        newest_whole(tmp_path)
    (write(tmp_path, 2) / "optimizer.pt").unlink()
    with pytest.raises(UserError, match=r"go on from; damaged: checkpoint-2 \(optimizer.pt is missing\)\. Start again"):
        newest_whole(tmp_path)


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, [1, 2, 3, 4]),
        (0, None, [1, 2, 3, 4]),
        (9, None, [1, 2, 3, 4]),
        (2, None, [3, 4]),
        (1, None, [4]),
        (2, 1, [1, 4]),
        (1, 4, [4]),
    ],
)
def test_rotation_keeps_the_newest_and_the_best(
    tmp_path: Path, limit: int | None, best: int | None, left: list[int]
) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
    rotate(tmp_path, 4, limit, None if best is None else tmp_path / f"checkpoint-{best}")
    assert list(checkpoints(tmp_path)) == left
    assert not (tmp_path / UNFINISHED).exists()


def test_rotation_goes_by_the_step_whatever_the_clock_says(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        os.utime(write(tmp_path, step), (100 - step, 100 - step))
    rotate(tmp_path, 6, 2)
    assert list(checkpoints(tmp_path)) == [4, 6]


@pytest.mark.parametrize(("limit", "best", "left"), [(None, None, [2, 4]), (1, None, [4]), (3, 9, [2, 4, 9])])
def test_a_past_that_the_run_has_left_goes(
    tmp_path: Path, limit: int | None, best: int | None, left: list[int]
) -> None:
    for step in (2, 8, 9, 4):  # the run went on from checkpoint-2
        write(tmp_path, step)
    rotate(tmp_path, 4, limit, None if best is None else tmp_path / f"checkpoint-{best}")
    assert list(checkpoints(tmp_path)) == left


def test_rotation_spares_the_one_that_is_whole(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        write(tmp_path, step)
    (tmp_path / "checkpoint-6" / "optimizer.pt").unlink()
    rotate(tmp_path, 6, 1)
    assert list(checkpoints(tmp_path)) == [4]


def test_a_folder_that_goes_is_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write(tmp_path, 2)

    def interrupted(folder: Path, **options: bool) -> None:
        if folder.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            discard(checkpoint)
    assert names(tmp_path) == [UNFINISHED]
    clean_up(tmp_path, only_if_empty=True)
    assert names(tmp_path) == [UNFINISHED]
    discard(write(tmp_path, 2))  # where an earlier attempt has left its rest
    clean_up(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "{}", '{"epoch": 1.0, "colour": "red"}', '{"epoch": "x"}', '{"epoch": null}']
)
def test_a_state_that_no_run_was_in(content: str, tmp_path: Path) -> None:
    """Somebody else has written it and sealed it anew: checksums do not tell."""
    (tmp_path / "trainer_state.json").write_text(content)
    with pytest.raises(UserError, match=rf"^{tmp_path / 'trainer_state.json'} is damaged \(.*Go on from another"):
        state_of(tmp_path)
    (tmp_path / "trainer_state.json").write_text(
        '{"epoch": 1.5, "global_step": 4, "max_steps": 8, "train_batch_size": 4}'
    )
    assert state_of(tmp_path).epoch == 1.5
