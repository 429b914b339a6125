"""The pictograms in drawn scenes: the same on every call, and what their columns say of them is so."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ex2.data import LabelledImages, load_images
from ex2.data import pictogram_scenes as scenes


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    loaded = load_images("pictogram-scenes?heldout=all")
    assert isinstance(loaded, LabelledImages)
    return loaded


def _square(side: int = 96) -> Image.Image:
    """A drawing of one colour that no background has."""
    return Image.new("RGBA", (side, side), (255, 0, 255, 255))


def _drawn(image: Image.Image) -> np.ndarray:
    return (np.asarray(image) == (255, 0, 255)).all(axis=-1)


def test_classes_ids_and_splits_are_those_of_the_pictograms(images: LabelledImages) -> None:
    drawings = load_images("pictograms?heldout=all")
    assert isinstance(drawings, LabelledImages)
    for field in ("class_names", "labels", "image_ids", "splits"):
        assert getattr(images, field) == getattr(drawings, field)
    assert images.splits is not None
    assert images.splits.count("heldout") >= 300
    assert images.attributes["palette"] == drawings.attributes["palette"]
    assert images.fingerprint != drawings.fingerprint


def test_a_scene_is_the_same_every_time(images: LabelledImages) -> None:
    again = pickle.loads(pickle.dumps(load_images("pictogram-scenes?heldout=all")))
    assert again.fingerprint == images.fingerprint
    assert again.attributes == images.attributes
    for i in (0, 400, len(images) - 1):
        assert images.load(i).size == (144, 144)
        assert images.load(i).tobytes() == again.load(i).tobytes()


def test_columns_are_drawn_evenly_and_independently_of_the_class(images: LabelledImages) -> None:
    for column, values in (("background", scenes.BACKGROUNDS), ("size", scenes.SIZES), ("count", ("1", "2", "3"))):
        found = Counter(images.attributes[column])
        assert set(found) == set(values)
        expected = len(images) / len(values)
        chi_squared = sum((count - expected) ** 2 / expected for count in found.values())
        assert chi_squared < 30  # 8 degrees of freedom at most: 0.02 % of fair draws are beyond
    by_class = Counter(zip(images.labels, images.attributes["background"], strict=True))
    assert len(by_class) > 54 * 5  # no class keeps to a few backgrounds


def test_a_scene_shows_what_its_columns_say(images: LabelledImages) -> None:
    """Single drawings cover exactly their size, and more drawings more of the scene."""
    inner = {size: side - 4 for size, side in scenes.SIZES.items()}  # without the rim
    covered: dict[tuple[str, int], set[int]] = {}
    for image_id in images.image_ids:
        recipe = scenes.recipe_of(image_id)
        pixels = int(_drawn(scenes.compose(_square(), image_id)).sum())
        covered.setdefault((recipe.size, recipe.number), set()).add(pixels)
    for size, side in inner.items():
        assert covered[size, 1] == {side * side}
        assert min(covered[size, 2]) > side * side
        assert min(covered[size, 3]) > min(covered[size, 2])


def test_every_background_is_another_and_no_drawing_lies_outside(images: LabelledImages) -> None:
    clear = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    means = {}
    for image_id in images.image_ids:
        background = np.asarray(scenes.compose(clear, image_id), dtype=float)
        means.setdefault(scenes.recipe_of(image_id).background, []).append(background.mean(axis=(0, 1)))
    centres = {name: np.mean(colours, axis=0) for name, colours in means.items()}
    names = list(centres)
    for i, name in enumerate(names):
        for other in names[:i]:
            assert np.abs(centres[name] - centres[other]).max() > 8, (name, other)
    for cells in scenes._CELLS.values():
        for left, top, right, bottom in cells:
            assert 0 <= left < right <= scenes.SIDE
            assert 0 <= top < bottom <= scenes.SIDE
            assert min(right - left, bottom - top) >= max(scenes.SIZES.values())


def test_the_rim_keeps_a_dark_drawing_apart_from_the_night(images: LabelledImages) -> None:
    image_id = next(i for i in images.image_ids if scenes.recipe_of(i)[::2] == ("night", 1))
    scene = np.asarray(scenes.compose(Image.new("RGBA", (96, 96), (15, 20, 60, 255)), image_id))
    white = (scene == 255).all(axis=-1).sum()
    side = scenes.SIZES[scenes.recipe_of(image_id).size]
    assert white == side**2 - (side - 4) ** 2


def test_fingerprint_changes_with_the_recipe(images: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    first = images.load(0).tobytes()
    monkeypatch.setattr(scenes, "RECIPE", scenes.RECIPE + 1)
    changed = load_images("pictogram-scenes?heldout=all")
    assert changed.fingerprint != images.fingerprint
    assert changed.load(0).tobytes() != first


def test_held_out_families_can_be_named() -> None:
    first = load_images("pictogram-scenes?heldout=twemoji,fxemoji")
    assert first.name == "pictogram-scenes?heldout=twemoji,fxemoji"
    assert isinstance(first, LabelledImages)
    assert first.splits is not None
    assert first.splits.count("heldout") == 100
