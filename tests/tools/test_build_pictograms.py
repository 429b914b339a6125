"""Tests of the pure parts of the pictogram build, and of the shipped set against its rules (no network, no npm)."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

torch = pytest.importorskip("torch")

from ex2.base.rgb import to_rgb  # noqa: E402
from tools.build_pictograms import card, common, compose, contrast, descriptions, export, fetch, heldout, rasterise  # noqa: E402
from tools.build_pictograms.align import LEFT_OUT  # noqa: E402
from tools.build_pictograms.augment import add_outline, augment, erase, prepare  # noqa: E402
from tools.build_pictograms.build import STEPS, outputs, parse, runners  # noqa: E402
from tools.build_pictograms.captions import (  # noqa: E402
    CAPTION_WEIGHTS,
    caption_weights,
    gloss_clauses,
    image_captions,
)
from tools.build_pictograms.colours import colour_shares, main_colours, shade_shares, to_lab  # noqa: E402
from tools.build_pictograms.describe import CHANGES, class_block  # noqa: E402
from tools.build_pictograms.evaluate import topk_accuracy  # noqa: E402
from tools.build_pictograms.losses import CaptionLoss, margin_loss, pair_loss, shared_targets  # noqa: E402
from tools.build_pictograms.measure import text_kinds  # noqa: E402
from tools.build_pictograms.model import new_adapter  # noqa: E402
from tools.build_pictograms.train import GLOSS_WEIGHTS, batches, learning_rate_factor  # noqa: E402
from tools.build_pictograms.wordnet import parse_synset  # noqa: E402

ASSETS = ROOT / "ex2" / "assets" / "pictograms"

CLASSES = {
    "1f42f": {"emoji": "\U0001f42f", "name": "tiger face"},
    "1f405": {"emoji": "\U0001f405", "name": "tiger"},
    "1f42a": {"emoji": "\U0001f42a", "name": "camel"},
    "1f42b": {"emoji": "\U0001f42b", "name": "two-hump camel"},
    "1f41e": {"emoji": "\U0001f41e", "name": "lady beetle"},
    "2618": {"emoji": "\u2618\ufe0f", "name": "shamrock"},
}


def square(colour: tuple[int, int, int], size: int = 8) -> np.ndarray:
    """Return an opaque image of one colour."""
    return np.tile(np.array([*colour, 255], dtype=np.uint8), (size, size, 1))


# Names


def test_codepoints_without_selectors() -> None:
    assert rasterise.codepoint_key("\u2618\ufe0f") == "2618"
    assert rasterise.codepoint_key("\U0001f468\u200d\U0001f33e") == "1f468-200d-1f33e"
    assert rasterise.strip_selector("0023-fe0f-20e3") == "23-20e3"


def test_icon_names_are_mapped_to_classes() -> None:
    short = {"\U0001f41e": {"name": "ladybug", "slug": "lady_bug"}}
    names = rasterise.name_table(CLASSES, short)
    assert rasterise.class_of_icon("lady-beetle", "noto", names, {}) == "1f41e"
    assert rasterise.class_of_icon("ladybug", "noto", names, {}) == "1f41e"
    assert rasterise.class_of_icon("camel-2", "streamline-emojis", names, {}) == "1f42a"
    assert rasterise.class_of_icon("camel-2", "noto", names, {}) is None
    assert rasterise.class_of_icon("other", "noto", names, {"other": "2618"}) == "2618"
    assert rasterise.class_of_icon("tiger-skin-tone-2", "noto", names, {}) is None


def test_fxemoji_names_that_differ_from_unicode() -> None:
    names = rasterise.name_table(CLASSES, {})
    assert rasterise.class_of_icon("tiger", "fxemoji", names, {}) == "1f42f"
    assert rasterise.class_of_icon("tigerside", "fxemoji", names, {}) == "1f405"
    assert rasterise.class_of_icon("dromedarycamel", "fxemoji", names, {}) == "1f42a"
    assert rasterise.class_of_icon("bactriancamel", "fxemoji", names, {}) == "1f42b"


def test_aliases_that_turn_the_drawing_are_refused() -> None:
    icons = {"icons": {"a": {"body": "A"}}, "aliases": {"b": {"parent": "a"}, "c": {"parent": "a", "hFlip": True}}}
    assert rasterise.icon_body(icons, "b") == {"body": "A"}
    assert rasterise.icon_body(icons, "c") is None
    assert rasterise.icon_body(icons, "d") is None


def test_svg_has_its_own_box_and_ink() -> None:
    svg = rasterise.svg_of({"body": '<path fill="currentColor"/>', "width": 20}, 16, 18)
    assert 'viewBox="0 0 20 18"' in svg
    assert "currentColor" not in svg
    assert 'fill="#222"' in svg


def test_folder_names() -> None:
    assert common.folder_name("four leaf clover") == "four_leaf_clover"


# Colours


def test_lab_of_known_colours() -> None:
    white, black, red = to_lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]]))
    assert white == pytest.approx([100, 0, 0], abs=0.1)
    assert black == pytest.approx([0, 0, 0], abs=0.1)
    assert red == pytest.approx([53.2, 80.1, 67.2], abs=0.3)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [((255, 0, 0), "red"), ((0, 0, 0), "black"), ((250, 215, 60), "yellow"), ((20, 40, 90), "dark blue")],
)
def test_colour_of_one_square(rgb: tuple[int, int, int], name: str) -> None:
    assert main_colours(square(rgb)) == [name]


def test_shades_count_as_their_colour() -> None:
    lime = square((190, 207, 70))
    assert main_colours(lime) == ["yellow"]
    assert main_colours(lime, shares_of=shade_shares) == ["green"]
    both = np.concatenate([lime, square((80, 165, 60))])
    assert shade_shares(both)["green"] == pytest.approx(1)
    assert shade_shares(both[:0]) == {}


def test_size_is_the_share_of_drawn_pixels() -> None:
    pixels = np.zeros((10, 10, 4), np.uint8)
    sizes = []
    for rows in (2, 3, 5):
        pixels[:rows, :, 3] = 255
        sizes.append(heldout.size_of(pixels))
    assert sizes == ["small", "medium", "large"]


def test_colours_by_share_and_without_transparent_pixels() -> None:
    pixels = np.concatenate([square((215, 35, 40)), square((215, 35, 40)), square((250, 250, 250))])
    assert colour_shares(pixels)["red"] == pytest.approx(2 / 3)
    assert main_colours(pixels) == ["red", "white"]
    pixels[-8:, :, 3] = 0
    assert main_colours(pixels) == ["red"]
    assert main_colours(np.zeros((4, 4, 4), dtype=np.uint8)) == []


def test_small_colour_areas_are_not_named() -> None:
    pixels = np.concatenate([square((80, 165, 60))] * 9 + [square((25, 25, 25))])
    assert main_colours(pixels) == ["green"]


# Captions


def test_caption_weights_spread_a_kind_evenly() -> None:
    captions = [("name", "cat"), ("name", "a cat"), ("gloss", "feline mammal")]
    assert caption_weights(captions) == pytest.approx([0.21, 0.21, 0.18])
    assert caption_weights(captions, GLOSS_WEIGHTS) == pytest.approx([0.125, 0.125, 0.32])


def test_caption_shares_sum_to_one() -> None:
    assert sum(CAPTION_WEIGHTS.values()) == pytest.approx(1)
    assert sum(GLOSS_WEIGHTS.values()) == pytest.approx(1)
    assert set(GLOSS_WEIGHTS) == set(CAPTION_WEIGHTS)


def test_gloss_clauses() -> None:
    gloss = "large feline of forests in most of Asia having a tawny coat with black stripes; endangered"
    assert gloss_clauses(gloss) == ["large feline of forests in most of Asia", "a tawny coat", "black stripes"]


def test_image_captions() -> None:
    entry = {"name": "tiger", "subgroup": "animal-mammal"}
    assert image_captions(entry, ["orange", "black", "white"], monochrome=False) == [
        "a orange and black tiger",
        "tiger, mostly orange",
        "a orange and black animal",
        "colors: orange, black, white",
    ]
    assert image_captions(entry, [], monochrome=False) == []
    assert "black and white tiger" in image_captions(entry, ["black"], monochrome=True)


def test_wordnet_line() -> None:
    line = (
        "02129604 05 n 02 tiger 0 Panthera_tigris 0 002 @ 02127808 n 0000 #m 02127482 n 0000 "
        '| large feline of forests; "endangered"  \n'
    )
    offset, synset = parse_synset(line)
    assert offset == "02129604"
    assert synset.lexicographer == 5
    assert synset.words == ("tiger", "Panthera tigris")
    assert synset.hypernyms == ("02127808",)
    assert synset.gloss == "large feline of forests"


# Descriptions

DESCRIBED = descriptions.read_descriptions()


def texts_of(entry: descriptions.Description) -> list[str]:
    """Return everything that is written about a class."""
    lists = (entry.kinds, entry.colours, entry.parts, entry.shape, entry.place, *entry.sentences.values())
    return [text for texts in lists for text in texts]


def test_every_embedded_class_is_described_by_every_writer() -> None:
    assert set(common.EMBEDDED_CLASSES) <= set(DESCRIBED)
    assert not set(common.UNSEEN_CLASSES) & set(DESCRIBED)
    assert set(LEFT_OUT) < set(descriptions.WRITERS)
    for name in common.EMBEDDED_CLASSES:
        assert set(DESCRIBED[name].sentences) == set(descriptions.WRITERS)
        assert all(DESCRIBED[name].sentences.values())


def test_no_description_is_empty_or_says_its_name() -> None:
    for name, entry in DESCRIBED.items():
        texts = texts_of(entry)
        assert all(text.strip() == text and text for text in texts)
        assert not [text for text in texts if descriptions.says_name(name, text)]


def test_held_out_descriptions_are_not_trained_on() -> None:
    trained = {text.lower().rstrip(".") for entry in DESCRIBED.values() for text in texts_of(entry)}
    for part, names in (("development", common.EMBEDDED_CLASSES), ("unseen", common.UNSEEN_CLASSES)):
        held_out = descriptions.read_part(part)
        assert set(held_out) == set(names)
        for name, entry in held_out.items():
            assert not {entry["general"], entry["parts"]} & trained
            assert not descriptions.says_name(name, f"{entry['general']} {entry['parts']}")


def test_names_are_found_as_words() -> None:
    assert descriptions.says_name("ant", "Two ants.")
    assert not descriptions.says_name("ant", "a giant plant")
    assert descriptions.says_name("palm tree", "A Palm Tree")


def test_siblings() -> None:
    assert descriptions.siblings("tiger", "tiger face")
    assert not descriptions.siblings("tiger", "cat")


def test_texts_with_names_have_the_right_article() -> None:
    assert "an owl" in descriptions.empty_texts("owl")
    assert "An owl is an owl." in descriptions.empty_texts("owl")
    rng = random.Random(0)
    texts = {descriptions.with_name("owl", "It has big eyes.", rng) for _ in range(40)}
    assert {"owl: It has big eyes.", "An owl. It has big eyes.", "an owl, it has big eyes."} < texts
    assert "It has big eyes. It is an owl." in texts


def test_random_words_stand_behind_the_name() -> None:
    text = descriptions.with_random_words("owl", random.Random(0))
    assert text.startswith("owl: ")
    assert len(text.split()) >= 5


def test_bare_kinds_are_true() -> None:
    bird = {"subgroup": "animal-bird", "name": "owl"}
    assert "a bird" in descriptions.bare_kinds(bird, DESCRIBED["owl"])
    assert "a waterfowl" not in descriptions.bare_kinds(bird, DESCRIBED["owl"])
    assert "a waterfowl" in descriptions.bare_kinds(bird | {"name": "duck"}, DESCRIBED["duck"])


# Changed attributes


def test_changed_colours_are_far_from_the_true_ones() -> None:
    for seed in range(30):
        text = contrast.change_colours("Orange fur with black stripes, an orange tail.", random.Random(seed))
        assert text is not None
        found = [word.lower() for word in contrast.COLOUR_WORD.findall(text)]
        assert found[0] == found[2]
        assert not any(contrast.near(new, old) for new in found for old in ("orange", "black"))
        assert text[0].isupper()
    assert contrast.change_colours("a long tail", random.Random(0)) is None


def test_changed_pattern_and_shape() -> None:
    text = contrast.change_pattern("Striped fur.", random.Random(0))
    assert text in ("Spotted fur.", "Checkered fur.", "Plain fur.")
    assert contrast.change_shape("a long tail and two horns", random.Random(0)) in {
        f"a {tail} tail and {count} horns" for tail in ("short", "stubby") for count in ("five", "seven")
    }
    assert contrast.change_pattern("a tail", random.Random(0)) is None


def test_changed_parts_are_those_of_the_other_class() -> None:
    tiger, snail = DESCRIBED["tiger"], DESCRIBED["snail"]
    text = contrast.change_parts(f"It has {tiger.parts[0]}.", tiger, snail, random.Random(0))
    assert text is not None
    assert any(part in text for part in snail.parts)
    assert tiger.parts[0] not in text
    sentence = contrast.change_parts("An animal with a mane.", tiger, snail, random.Random(0))
    assert sentence is not None
    assert sentence.startswith("An animal with ")
    assert "mane" not in sentence
    assert contrast.change_parts("It swims.", tiger, snail, random.Random(0)) is None


def test_block_of_a_class() -> None:
    entry = {"name": "tiger", "subgroup": "animal-mammal"}
    others = [DESCRIBED["snail"], DESCRIBED["rose"]]
    block = class_block(entry, DESCRIBED["tiger"], others, seed=0)
    assert block == class_block(entry, DESCRIBED["tiger"], others, seed=0)
    assert not any(descriptions.says_name("tiger", true) for true, *_ in block["free"])
    assert all(descriptions.says_name("tiger", true) for true, *_ in block["named"])
    for role in ("free", "named"):
        assert {writer for *_, writer in block[role]} == set(descriptions.WRITERS)
        for true, false, weight, _ in block[role]:
            assert len(false) <= CHANGES
            assert weight > 0
            assert true not in [text for _, text in false]


# Composites


def drawing(name: str = "cat") -> compose.Drawing:
    """Return a red disc as a pictogram."""
    pixels = np.zeros((96, 96, 4), dtype=np.uint8)
    y, x = np.mgrid[:96, :96]
    pixels[(y - 48) ** 2 + (x - 48) ** 2 < 1600] = (215, 35, 40, 255)
    return compose.Drawing(pixels, name, "pet", monochrome=False)


@pytest.mark.parametrize("make", [compose.counted, compose.resized, compose.on_plain, compose.in_scene])
def test_composites_have_changed_captions(make: Callable[..., compose.Composite]) -> None:
    for seed in range(5):
        item = make(drawing(), random.Random(seed))
        assert item.pixels.shape == (96, 96, 4)
        assert (item.pixels[..., 3] == 255).all()
        assert len(item.true) == len(item.false) == 4
        assert all(true != false for true, false in zip(item.true, item.false, strict=True))


def test_recoloured_drawing_has_the_colour() -> None:
    items = [compose.recoloured(drawing(), random.Random(seed)) for seed in range(20)]
    made = [item for item in items if item is not None]
    assert made
    for item in made:
        colour = item.true[3].removeprefix("It is ").rstrip(".")
        assert colour in main_colours(item.pixels[::3, ::3])
    gray = compose.Drawing(np.full((96, 96, 4), 128, dtype=np.uint8), "cat", "pet", monochrome=True)
    assert compose.recoloured(gray, random.Random(0)) is None


def test_pair_names_both() -> None:
    item = compose.paired(drawing("cat"), drawing("owl"), "ant", random.Random(0))
    assert item.true[0] == "a cat and an owl"
    assert item.false[0] == "a cat and an ant"


# Adapter


def test_new_adapter_changes_nothing() -> None:
    texts = torch.nn.functional.normalize(torch.randn(5, 384, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert torch.allclose(new_adapter()(texts), texts, atol=1e-6)
    assert torch.allclose(new_adapter()(3 * texts), texts, atol=1e-6)


def test_measured_texts() -> None:
    texts = text_kinds(
        ("owl", "ant"), ["It is brown; it has big eyes.", "It is small; it has six legs."], random.Random(0)
    )
    assert texts["A NAME is a NAME."] == ["An owl is an owl.", "An ant is an ant."]
    assert texts["colour changed"][1] is None
    assert {len(items) for items in texts.values()} == {2}


# Losses, schedule, measure


def test_margin_loss() -> None:
    high, low, scale = torch.tensor([0.5]), torch.tensor([0.1]), torch.tensor(30.0)
    assert margin_loss(high, low, scale) < 0.01
    assert margin_loss(low, high, scale) > 10
    assert margin_loss(low, low, scale, margin=0.1) > margin_loss(low, low, scale)


def test_equal_texts_share_the_target() -> None:
    targets = shared_targets(torch.tensor([4, 7]), torch.tensor([4, 7, 4]))
    assert targets.tolist() == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]


def test_pair_loss_of_matching_pairs_is_smaller() -> None:
    texts = torch.eye(3)
    numbers, scale = torch.arange(3), torch.tensor(10.0)
    assert pair_loss(texts, texts, numbers, scale) < 0.01
    assert pair_loss(texts.roll(1, 0), texts, numbers, scale) > 5


def test_caption_loss_leaves_unseen_classes_out() -> None:
    captions = {
        "embeddings": torch.eye(4),
        "classes": [[("name", 0)], [], [("name", 1)]],
        "images": {0: [2], 1: [3, 2]},
    }
    loss = CaptionLoss(captions, torch.tensor([0, 2, 1]), image_weight=0.5)
    assert loss.row_of_image.tolist() == [0, 1, -1]
    generator = torch.Generator().manual_seed(0)
    total, first, second = loss(torch.eye(4)[:2], torch.tensor([0, 1]), torch.tensor(2.0), generator)
    assert total.item() == pytest.approx(first + 0.5 * second, rel=1e-5)


def test_learning_rate_counts_steps() -> None:
    assert learning_rate_factor(0, 100, 10) == pytest.approx(0.1)
    assert learning_rate_factor(50, 100, 10) == pytest.approx(0.51)
    assert learning_rate_factor(100, 100, 0) == pytest.approx(0.02)


def test_batches_are_full_and_without_repetition_in_an_epoch() -> None:
    supply = batches(torch.arange(10), 3, torch.Generator().manual_seed(0))
    epoch = torch.cat([next(supply) for _ in range(3)])
    assert len(set(epoch.tolist())) == 9


def test_topk() -> None:
    texts = torch.eye(6)
    images = torch.stack([texts[0], texts[1] + 2 * texts[2], -texts[3]])
    result = topk_accuracy(images, texts, torch.tensor([0, 1, 3]))
    assert result == {"top1": 33.3, "top5": 66.7}


# Augmentation


def rgba(count: int) -> torch.Tensor:
    """Return random images with transparent borders."""
    images = torch.randint(0, 256, (count, 4, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    images[:, 3] = 0
    images[:, 3, 20:76, 20:76] = 255
    return images


def test_augment_shape_range_and_seed() -> None:
    images = rgba(8)
    before = images.clone()
    first = augment(images, torch.Generator().manual_seed(1))
    again = augment(images, torch.Generator().manual_seed(1))
    other = augment(images, torch.Generator().manual_seed(2))
    assert first.shape == (8, 3, 96, 96)
    assert first.min() >= -1
    assert first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)


def test_prepare_lays_images_on_white() -> None:
    images = rgba(2)
    inputs = prepare(images)
    assert torch.all(inputs[:, :, :20] == 1)
    expected = images[0, 1, 40, 40].item() / 255 * 2 - 1
    assert inputs[0, 1, 40, 40].item() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(prepare(images, mirrored=True), inputs.flip(3))


def test_outline_surrounds_the_drawing_only() -> None:
    image = torch.zeros(1, 4, 9, 9)
    image[:, :, 4, 4] = 1
    outlined = add_outline(image, 1)
    assert outlined[0, 3].sum() == 9
    assert outlined[0, :3, 4, 4].tolist() == [1, 1, 1]
    assert outlined[0, 0, 3, 3].item() == pytest.approx(0.08)


def test_erase_covers_some_images() -> None:
    images = torch.full((200, 3, 96, 96), 2.0)
    touched = (erase(images, torch.Generator().manual_seed(0)) != 2.0).flatten(1).any(1).float().mean()
    assert 0.08 < touched < 0.23


# Splits and the shipped set


def test_splits_and_classes_are_disjoint() -> None:
    assert len({family.name for family in common.FAMILIES}) == len(common.FAMILIES)
    assert Counter(family.split for family in common.FAMILIES) == {"train": 8, "validation": 1, "test": 2}
    assert {family.name for family in common.families_of("test")} == {"twemoji", "fxemoji"}
    assert len(set(common.EMBEDDED_CLASSES)) == 54
    assert len(set(common.UNSEEN_CLASSES)) == 40
    assert not set(common.EMBEDDED_CLASSES) & set(common.UNSEEN_CLASSES)
    assert {probe.name for probe in common.PROBES} <= set(common.EMBEDDED_CLASSES)
    assert all(probe.name not in f"{probe.visual} {probe.habitat}" for probe in common.PROBES)


def test_held_out_families_are_named_and_assigned_by_hand() -> None:
    drawings = rasterise.read_json(heldout.DRAWINGS)
    assert list(drawings) == [family.name for family in common.HELD_OUT_FAMILIES]
    assert not set(drawings) & {family.name for family in common.FAMILIES}
    assert {family.split for family in common.HELD_OUT_FAMILIES} == {"held-out"}
    for names in drawings.values():
        assert set(names) <= set(common.EMBEDDED_CLASSES)
        assert len(set(names.values())) == len(names)


def test_no_share_alike_source() -> None:
    families = (*common.FAMILIES, *common.HELD_OUT_FAMILIES)
    assert not {family.name for family in families} & set(common.EXCLUDED_FAMILIES)
    assert not any("SA" in family.spdx or "NC" in family.spdx for family in families)
    assert not any(excluded in spec for spec in fetch.npm_specs() for excluded in common.EXCLUDED_FAMILIES)


def test_shipped_licences() -> None:
    records = json.loads((ASSETS / "LICENSES.json").read_text(encoding="utf-8"))
    families = {family.name: family for family in (*common.FAMILIES, *common.HELD_OUT_FAMILIES)}
    assert set(records) == set(families)
    for name, record in records.items():
        family = families[name]
        assert (record["spdx"], record["author"], record["vlm_split"]) == (family.spdx, family.author, family.split)
        assert record["url"]
        assert record["version"]
    text = (ASSETS / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert all(family.source_url in text for family in families.values() if family.spdx.startswith("CC-BY"))
    notice = (ASSETS / "NOTICE.md").read_text(encoding="utf-8")
    assert notice == card.notice()
    assert all(family.copyright in notice for family in families.values())
    assert all(family.copyright for family in families.values() if family.spdx in card.LICENCE_TEXTS)


def test_shipped_images() -> None:
    folders = {path.name for path in (ASSETS / "images").iterdir()}
    assert folders == {common.folder_name(name) for name in common.EMBEDDED_CLASSES}
    files = list((ASSETS / "images").glob("*/*"))
    assert all(path.suffix == ".webp" for path in files)
    added = rasterise.read_json(heldout.DRAWINGS)
    assert {path.stem for path in files} == {family.name for family in common.FAMILIES} | set(added)
    assert min(Counter(path.parent.name for path in files).values()) >= 8
    for family, names in added.items():
        folders = {path.parent.name for path in files if path.stem == family}
        assert folders == {common.folder_name(name) for name in names}


def test_added_drawings_repeat_none_that_the_model_knows() -> None:
    """In gray at 24 x 24 pixels none correlates by more than 0.85 with one that it was trained or chosen on."""

    def gray(path: Path) -> np.ndarray:
        small = to_rgb(Image.open(path)).convert("L").resize((24, 24))
        return np.asarray(small, dtype=float).ravel()

    known = [family.name for family in common.FAMILIES if family.split != "test"]
    for folder in (ASSETS / "images").iterdir():
        seen = [gray(path) for path in folder.iterdir() if path.stem in known]
        for family in common.HELD_OUT_FAMILIES:
            path = folder / f"{family.name}.webp"
            if path.is_file():
                assert np.corrcoef([gray(path), *seen])[0, 1:].max() < 0.85, path


def test_shipped_attributes_are_those_of_the_pixels(tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(ASSETS / "images")
    heldout.write_attributes(tmp_path)
    assert (tmp_path / "attributes.csv").read_bytes() == (ASSETS / "attributes.csv").read_bytes()


def test_clip_art_is_cut_out_and_must_be_in_the_public_domain(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:cc="c" xmlns:rdf="r" width="200" height="200"><metadata>{}</metadata>'
        '<rect x="150" y="150" width="40" height="20" fill="#ff0000"/></svg>'
    )
    path = tmp_path / "one.svg"
    path.write_text(svg.format(f"<{heldout.PUBLIC_DOMAIN}/>"), encoding="utf-8")
    drawn = heldout.draw_clip_art(path)[..., 3] > 128
    assert drawn.shape == (96, 96)
    assert drawn.sum() == pytest.approx(96 * 48, rel=0.03)  # twice as wide as high, in the middle
    assert np.flatnonzero(drawn.any(axis=1)).mean() == pytest.approx(47.5, abs=1)
    path.write_text(svg.format(""), encoding="utf-8")
    with pytest.raises(ValueError, match="does not say that it is in the public domain"):
        heldout.draw_clip_art(path)


def test_the_section_on_held_out_images_is_replaced() -> None:
    old = "# Card\n\n## Limits\n\n- some\n"
    first = card.with_held_out(old, {"held-out": 2}, [["all", "2", "50.0"]], [])
    again = card.with_held_out(first, {"held-out": 3}, [["all", "3", "66.7"]], [])
    assert "has 2 images: 2 held-out" in first
    assert "has 3 images: 3 held-out" in again
    assert "| all | 3 | 66.7 |" in again
    assert again.count(card.HELD_OUT_HEADING) == again.count("## Limits") == 1
    assert again.endswith("## Limits\n\n- some\n")


def test_check_excluded_refuses_share_alike(tmp_path: Path) -> None:
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "LICENSES.json").write_text(json.dumps({"noto": {}}), encoding="utf-8")
    (tmp_path / "images" / "cat" / "noto.webp").touch()
    export.check_excluded(tmp_path)
    (tmp_path / "images" / "cat" / "openmoji.webp").touch()
    with pytest.raises(ValueError, match="openmoji"):
        export.check_excluded(tmp_path)


# Command line


def test_every_step_has_a_function_and_an_output() -> None:
    options = parse(["all", "--work", "somewhere"])
    work = common.Work(options.work)
    assert tuple(runners(work, options)) == STEPS == tuple(outputs(work))
    assert options.seed == common.SEED
