"""Published numbers: finding them, comparing with them, and the command on stand-in data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ex2.base.errors import UserError
from ex2.cli import main
from ex2.data import LabelledImages, load_images
from ex2.texts.pairs import PairText, PairTexts, write_pairs
from ex2.zero_shot import published as goldens
from ex2.zero_shot.published import GOLDENS, Golden, check, find_golden, official_images

CUB = Golden("ViT-B/32", "cub", 5_794, (51.3, 51.7), 54.3)


def test_goldens_are_sound() -> None:
    assert len({(golden.vlm, golden.dataset) for golden in GOLDENS}) == len(GOLDENS)
    for golden in GOLDENS:
        low, high = golden.template
        assert 0 < low <= high < (golden.fudd or 100)
    # The published counts of fixed and broken images give the published difference.
    large = find_golden("x", "cub", as_vlm="ViT-L/14@336px")
    assert large.n is not None
    assert large.fudd == pytest.approx(large.template[0] + 100 * (404 - 266) / large.n, abs=0.01)


def test_specs_tell_which_golden_it_is() -> None:
    assert find_golden("hf:openai/clip-vit-base-patch32", "cub:/data/birds") == CUB
    assert find_golden("open_clip:ViT-B-32/openai", "folder:/data", as_dataset="cub") == CUB
    assert find_golden("hf:/models/clip", "cub:/data", as_vlm="ViT-B/32") == CUB
    with pytest.raises(
        UserError, match=r"no published numbers for --vlm hf:/models/clip on --dataset cub; known: .*@336px on cub;"
    ):
        find_golden("hf:/models/clip", "cub:/data")
    with pytest.raises(UserError, match=r"on --dataset folder; known: .*ViT-B/32 on imagenet, cub, .*--as_dataset"):
        find_golden("open_clip:ViT-B-32/openai", "folder:/data/cub")


@pytest.mark.parametrize(
    ("n", "template", "fudd", "expected"),
    [
        (5_794, 51.5, 54.3, [True, True, True]),
        (5_794, 50.8, 54.8, [True, True, True]),  # half a point outside
        (5_794, 52.2, 53.8, [True, True, True]),
        (5_794, 50.7, 54.9, [True, False, False]),
        (5_000, 52.3, None, [False, False, None]),
    ],
)
def test_measurements_are_checked_within_tolerance(
    n: int, template: float, fudd: float | None, expected: list[bool | None]
) -> None:
    checks = check(CUB, n, template, fudd, 0.5)
    assert [item.quantity for item in checks] == ["images", "one template", "FuDD, K = 10"]
    assert [item.ok for item in checks] == expected
    assert checks[1].published == "51.30 to 51.70"


def test_unpublished_numbers_are_not_checked() -> None:
    assert [item.quantity for item in check(Golden("v", "d", None, (40.9, 40.9)), 7, 41.0, None, 0.5)] == [
        "one template"
    ]


def test_official_images_are_the_held_out_ones() -> None:
    images = load_images("pictograms")
    assert isinstance(images, LabelledImages)
    assert images.splits is not None
    own = official_images(images)
    positions = [i for i, split in enumerate(images.splits) if split == "heldout"]
    assert 0 < len(own) == len(positions) < len(images)
    assert own.image_ids == tuple(images.image_ids[i] for i in positions)
    assert own.labels == tuple(images.labels[i] for i in positions)
    assert own.load(5).tobytes() == images.load(positions[5]).tobytes()
    assert own.fingerprint != images.fingerprint
    assert own.splits is None
    assert own.attributes["family"] == tuple(images.attributes["family"][i] for i in positions)
    assert official_images(own) is own


# ---------------------------------------------------------------- the command


@pytest.fixture
def measured(class_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> float:
    """The template's accuracy in percent on all 24 images of the folder, as the command measures it."""
    monkeypatch.setattr(goldens, "GOLDENS", (Golden("pictogram", "folder", None, (0.0, 100.0)),))
    main(["verify-goldens", "--vlm", "pictogram", "--dataset", f"folder:{class_folder}"])
    row = next(row for row in capsys.readouterr().out.splitlines() if row.startswith("one template"))
    assert row.endswith("ok")
    return float(row.split()[-2])


def test_the_command_passes_and_fails(
    measured: float,
    class_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ("cat", "eagle", "ear of corn", "whale")
    # Sentences that are the templates themselves change nothing.
    texts = {
        (i, j): (PairText("", (f"a photo of a {names[i]}", f"a photo of a {names[j]}")),)
        for i in range(4)
        for j in range(i + 1, 4)
    }
    write_pairs(tmp_path / "pairs.json", PairTexts(names, texts))
    line = ["verify-goldens", "--vlm", "pictogram", "--dataset", f"folder:{class_folder}"]
    golden = Golden("pictogram", "folder", 24, (measured, measured), measured, k=3)
    monkeypatch.setattr(goldens, "GOLDENS", (golden,))
    main(line)
    printed = capsys.readouterr().out
    assert "needs --pairs" in printed
    main([*line, "--pairs", str(tmp_path / "pairs.json"), "--tolerance", "0.01"])
    printed = capsys.readouterr().out
    assert [row.split()[-1] for row in printed.splitlines()[2:]] == ["ok"] * 3

    monkeypatch.setattr(goldens, "GOLDENS", (Golden("pictogram", "folder", 25, (measured - 9, measured - 2)),))
    with pytest.raises(SystemExit) as stop:
        main(line)
    assert stop.value.code == 1
    assert [row.split()[-1] for row in capsys.readouterr().out.splitlines()[2:]] == ["DIFFERS"] * 2


def test_the_command_refuses(
    class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[[list[str]], str]
) -> None:
    line = ["verify-goldens", "--vlm", "pictogram", "--dataset", f"folder:{class_folder}"]
    assert "no published numbers for --vlm pictogram on --dataset folder" in refused(line)
    assert "--tolerance -1.0 is out of range" in refused([*line, "--tolerance", "-1"])
    monkeypatch.setattr(goldens, "GOLDENS", (Golden("pictogram", "folder", None, (0.0, 100.0)),))
    (tmp_path / "pairs.json").write_text("{}")
    assert "no accuracy of FuDD is published" in refused([*line, "--pairs", str(tmp_path / "pairs.json")])
