"""What a comparison comes to, in words and with images: counted by hand on eight classes of two images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from ex2.data import LabelledImages
from ex2.data.labelled import BrokenImage, fingerprint_of
from ex2.scoring.bank import ImageBank
from ex2.zero_shot.page import classification_page, conclusion, described, differences
from ex2.zero_shot.systems import Comparison, format_table
from ex2.zero_shot.vectors import Predictions, evaluate
from tests.browser import SIZES, fits, opened

NAMES = ("ant", "bee", "cow", "dog", "eel", "fox", "gnu", "<hen>")
LABELS = [label for label in range(8) for _ in range(2)]


def wrong(*places: int) -> list[int]:
    """The right class of every image but those at `places`, which are taken for the next class."""
    return [(label + (i in places)) % 8 for i, label in enumerate(LABELS)]


def comparison(systems: Mapping[str, Sequence[int]]) -> Comparison:
    bank = ImageBank(
        class_names=NAMES, embeddings=torch.eye(16), labels=torch.tensor(LABELS), split_ids=torch.ones(16, dtype=torch.long),
        image_ids=tuple(f"{i}.png" for i in range(16)), vlm_name="hand", vlm_fingerprint="f", dataset="eight",
    )  # fmt: skip
    labels = torch.tensor(LABELS)
    predictions = {
        name: Predictions(torch.tensor(ids)[:, None], torch.ones(16, 1))
        for name, ids in {"template": LABELS, **systems}.items()
    }
    blank = {"nll": None, "name_weight": None, "k": None, "among_k": None, "texts": 8, "cut_texts": 0}
    rows = [evaluate(name, own, predictions["template"], labels).row() | blank for name, own in predictions.items()]
    return Comparison(bank, "heldout", labels, predictions, rows)


@pytest.fixture
def images() -> LabelledImages:
    """As many as the bank has, in another order; the second cannot be read."""
    order = [*range(8, 16), *range(8)]

    def load(i: int) -> Image.Image:
        if order[i] == 1:
            raise BrokenImage("1.png", "torn")
        return Image.new("RGB", (200, 100), (order[i] * 16, 0, 0))

    ids = tuple(f"{i}.png" for i in order)
    labels = tuple(LABELS[i] for i in order)
    return LabelledImages("eight", NAMES, labels, ids, None, fingerprint_of([("x", "")]), load)


BETTER = {"class_name": wrong(*range(8)), "mine": LABELS, "random_words": wrong(*range(1, 9))}


def test_what_fudd_alone_has_is_a_column_only_beside_fudd() -> None:
    rows = comparison(BETTER).rows
    assert format_table(rows).splitlines()[0].endswith(" broken       n")
    fudd = rows[0] | {"system": "fudd_2", "k": 2, "among_k": 0.75}
    assert [line.endswith(end) for line, end in zip(
        format_table([rows[0], fudd]).splitlines(), ("n  true in K", "16", "16      75.00"), strict=True
    )] == [True] * 3  # fmt: skip


def test_descriptions_that_help_are_to_be_used() -> None:
    found = comparison(BETTER)
    assert described(found) == ["mine"]
    # Both images of four of the eight classes are right with mine only.
    assert differences(found, "mine")["class_name"].mean == pytest.approx(4 / 8)
    (sentence,) = conclusion(found, "with").values()
    assert sentence.startswith(
        "With the descriptions mine 100.0 % of the images are classified rightly, more than with the class names alone (50.0 %; "
        "a class's mean +50.0 points [+"
    )
    assert "and more than with the template and random words (50.0 %" in sentence
    assert sentence.endswith("Use the descriptions.")


NAME_WINS = "Use the class names, or"


@pytest.mark.parametrize(
    ("systems", "names", "words", "advice"),
    [
        ({"class_name": wrong(0), "mine": wrong(0, 1, 2)}, "with", "not clearly more or fewer than with the", NAME_WINS),
        ({"class_name": wrong(0), "mine": wrong(*range(1, 9))}, "with", "fewer than with the class names", NAME_WINS),
        (BETTER | {"random_words": wrong(14)}, "with", "more or fewer than with the template and random", "Random words do"),
        ({"class_name": wrong(0), "mine": wrong(*range(1, 9))}, "without", "fewer than", "Their class names were taken"),
        # Nothing moved at all: there is no interval to give.
        ({"class_name": LABELS, "mine": LABELS}, "as_written", "(100.0 %; a class's mean +0.0 points)", NAME_WINS),
    ],
)  # fmt: skip
def test_descriptions_that_do_not_help(
    systems: Mapping[str, Sequence[int]], names: str, words: str, advice: str
) -> None:
    (sentence,) = conclusion(comparison(systems), names).values()
    assert words in sentence
    assert advice in sentence


def test_without_names_or_descriptions_there_is_nothing_to_conclude(images: LabelledImages) -> None:
    assert conclusion(comparison({"mine": LABELS}), "with") == {}
    assert conclusion(comparison({"class_name": LABELS}), "with") == {}
    meta = {"vlm": "v", "dataset": "d", "split": "heldout", "names": "with"}
    assert b"No descriptions were tried" in classification_page(comparison({"class_name": LABELS}), meta, images)


def test_the_page_shows_the_classes_that_change_most_with_their_images(images: LabelledImages) -> None:
    # Class 2 gains both images, class 3 one; class 0 loses both (the second cannot be read), class 7 one.
    found = comparison({"class_name": wrong(4, 5, 6), "mine": wrong(0, 1, 15)})
    meta = {
        "vlm": "open_clip:M//srv/w.pt",
        "dataset": "folder:/home/me/eight",
        "split": "heldout",
        "names": "as_written",
    }
    page = classification_page(found, meta, images).decode()
    assert "Zero-shot classification of folder:eight by open_clip:M/w.pt" in page
    assert "/home/" not in page
    changes = re.findall(r"<h4>(.*?) <span class=\"range\">(.*?) points</span></h4>", page)
    assert changes == [("cow", "+100"), ("dog", "+50"), ("ant", "-100"), ("&lt;hen&gt;", "-50")]
    shown = re.findall(r'width="(\d+)" height="(\d+)" alt="(.*?)"', page)
    taken = (
        "cow, taken for dog",
        "cow, taken for dog",
        "dog, taken for eel",
        "ant, taken for bee",
        "&lt;hen&gt;, taken for ant",
    )
    assert shown == [("96", "48", alt) for alt in taken]
    assert "<script" not in page


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_the_page_in_a_browser(images: LabelledImages, tmp_path: Path, width: int, scheme: str) -> None:
    meta = {"vlm": "v", "dataset": "d", "split": "heldout", "names": "with"}
    (tmp_path / "report.html").write_bytes(classification_page(comparison(BETTER), meta, images))
    with opened((tmp_path / "report.html").as_uri(), width, scheme) as page:
        assert fits(page)
        assert page.locator("article img").evaluate_all("all => all.every((one) => one.naturalWidth > 0)")
