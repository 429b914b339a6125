"""Texts of templates and files, bound to classes by name; sums of embeddings, encoded once and cached."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ex2.base.errors import UserError
from ex2.scoring.bank import ImageBank
from ex2.scoring.scorer import TextScorer
from ex2.texts.descriptions import Description, write_descriptions
from ex2.texts.questions import TEMPLATE
from ex2.zero_shot.class_texts import TEMPLATE_SET, ClassTexts, read_class_texts, text_sums

NAMES = ("great auk", "owl", "elk")


def write_lists(path: Path, lists: object) -> Path:
    path.write_text(lists if isinstance(lists, str) else json.dumps(lists), encoding="utf-8")
    return path


def described(class_id: int, name: str, text: str) -> Description:
    return Description("birds", class_id, name, "", text, "hand", 0, {})


def test_templates_are_filled_in_for_every_class() -> None:
    made = ClassTexts.of_templates(("owl", "elk"), ["a {}", "one {}"])
    assert made == ClassTexts((0, 0, 1, 1), ("a owl", "one owl", "a elk", "one elk"))
    assert TEMPLATE_SET[0] == TEMPLATE
    assert len(set(TEMPLATE_SET)) == len(TEMPLATE_SET)
    assert all(template.count("{}") == 1 for template in TEMPLATE_SET)


def test_names_can_be_added_and_taken_away() -> None:
    texts = ClassTexts((0, 1, 1), ("Great  auks cannot fly.", "It hoots.", "The owl hoots."))
    assert texts.named(NAMES, "as_written") is texts
    assert texts.named(NAMES, "with").texts == ("Great auks cannot fly.", "owl: It hoots.", "The owl hoots.")
    assert texts.named(NAMES, "without").texts == ("it cannot fly.", "It hoots.", "it hoots.")
    assert texts.named(NAMES, "without").class_ids == (0, 1, 1)


def test_lists_belong_to_classes_by_name_whatever_their_order(tmp_path: Path) -> None:
    lists = {"elk": ["It is big."], "great auk": ["It is gone.", "It is black."], "owl": ["It hoots."]}
    texts = read_class_texts(write_lists(tmp_path / "d.json", lists), NAMES)
    assert sorted(zip(texts.class_ids, texts.texts, strict=True)) == [
        (0, "It is black."),
        (0, "It is gone."),
        (1, "It hoots."),
        (2, "It is big."),
    ]


def test_descriptions_are_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    write_descriptions(path, [described(2, "elk", "b"), described(0, "great auk", "a"), described(1, "owl", "c")])
    assert read_class_texts(path, NAMES) == ClassTexts((2, 0, 1), ("b", "a", "c"))


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"great auk": ["a"], "owl": ["b"]}, r"1 of 3 classes have no text: elk; .*--empty_class template"),
        ({"great auk": ["a"], "owl": [], "elk": ["c"]}, r"1 of 3 classes have no text: owl"),
        (
            {"great auk": ["a"], "owl": ["b"], "wolf": ["c"]},
            r"1 of 3 names .*: 'wolf'; classes without a name: 'elk'",
        ),
        ({"great auk": ["a"], "owl": "b", "elk": ["c"]}, "class 'owl' needs a list of texts"),
        ({"great auk": ["a"], "owl": [" "], "elk": ["c"]}, "class 'owl' needs a list of texts, none of them empty"),
        ('{"owl": ["a"], "owl": ["b"]}', "class 'owl' is there twice; merge its texts"),
        ([["a"], ["b"], ["c"]], "expected class names with lists of texts, found list"),
        ('{"owl": ', "broken JSON"),
    ],
)
def test_faulty_lists_are_refused(tmp_path: Path, lists: object, message: str) -> None:
    path = write_lists(tmp_path / "d.json", lists)
    with pytest.raises(UserError, match=message) as error:
        read_class_texts(path, NAMES)
    assert str(error.value).startswith(f"{path}: ")


def test_reordered_classes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    write_descriptions(path, [described(1, "elk", "a"), described(2, "owl", "b")])
    with pytest.raises(
        UserError, match="class_id 1: expected class name 'owl', found 'elk'.*is the class order another"
    ):
        read_class_texts(path, NAMES)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    for name in ("d.json", "d.jsonl"):
        with pytest.raises(UserError, match="no such file"):
            read_class_texts(tmp_path / name, NAMES)


def test_empty_classes_can_be_allowed(tmp_path: Path) -> None:
    texts = read_class_texts(write_lists(tmp_path / "d.json", {"owl": ["b"]}), NAMES, allow_empty=True)
    assert texts.undescribed(3) == [0, 2]


# ---------------------------------------------------------------- sums


class CountingVLM:
    """Embeds a text as a one-hot vector of its length, and remembers what it was asked."""

    name, max_text_tokens, device = "counting", 77, torch.device("cpu")

    def __init__(self, fingerprint: str = "0") -> None:
        self.fingerprint = fingerprint
        self.encoded: list[str] = []

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        self.encoded += texts
        return torch.eye(4)[[len(text) for text in texts]]


def scorer_of(vlm: CountingVLM) -> TextScorer:
    bank = ImageBank(("a",), torch.eye(4), torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long),
                     tuple("wxyz"), "counting", vlm.fingerprint, "mine")  # fmt: skip
    return TextScorer(vlm, bank)  # type: ignore[arg-type]


TEXTS, GROUPS = ["aa", "b", "aa", "ccc", "aa"], [0, 2, 2, 0, 0]
SUMS = [[0, 0, 2, 1], [0, 0, 0, 0], [0, 1, 1, 0]]


def test_sums_by_group_with_every_text_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in (1, 2, 2048):
        monkeypatch.setattr("ex2.zero_shot.class_texts._CHUNK", chunk)
        vlm = CountingVLM()
        found = text_sums(scorer_of(vlm), TEXTS, GROUPS, 3, progress=False)
        assert found.sums.tolist() == SUMS
        assert found.counts.tolist() == [3, 0, 2]
        assert sorted(vlm.encoded) == ["aa", "b", "ccc"]


def test_the_cache_spares_the_encoder(tmp_path: Path) -> None:
    vlm = CountingVLM()
    for _ in range(2):
        found = text_sums(scorer_of(vlm), TEXTS, GROUPS, 3, cache=tmp_path, progress=False)
        assert (found.sums.tolist(), found.counts.tolist()) == (SUMS, [3, 0, 2])
    assert len(vlm.encoded) == 3
    # Another VLM, grouping or text is another file.
    other = CountingVLM("1")
    text_sums(scorer_of(other), TEXTS, GROUPS, 3, cache=tmp_path, progress=False)
    assert len(other.encoded) == 3
    text_sums(scorer_of(vlm), TEXTS, GROUPS[::-1], 3, cache=tmp_path, progress=False)
    text_sums(scorer_of(vlm), TEXTS[::-1], GROUPS, 3, cache=tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_cache_file_is_not_trusted(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    text_sums(scorer_of(CountingVLM()), TEXTS, GROUPS, 3, cache=tmp_path, progress=False)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-5], "flip": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}[damage])
    with caplog.at_level(logging.WARNING, "ex2"):
        found = text_sums(scorer_of(CountingVLM()), TEXTS, GROUPS, 3, cache=tmp_path, progress=False)
    assert found.sums.tolist() == SUMS
    assert "encoding the texts again" in caplog.text
    assert path.read_bytes() == whole


def test_no_texts_are_no_sums() -> None:
    found = text_sums(scorer_of(CountingVLM()), [], [], 2, progress=False)
    assert (found.sums.tolist(), found.counts.tolist()) == ([[0.0] * 4] * 2, [0, 0])
