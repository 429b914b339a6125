"""Planted preferences: the sentences as they are shipped, and the banks that stand in for images."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from ex2.base.errors import UserError
from ex2.data import PlantedImages, list_datasets, load_images
from ex2.data.planted import COPIES, KINDS, NOISE, PLANTED, SENTENCES, load_planted, plant
from ex2.scoring.bank import ImageBank, build_bank
from ex2.texts.class_names import strip_whole_name
from ex2.vlm import VLM

ROWS = [json.loads(line) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
EACH = 8  # sentences of a class and category


@pytest.fixture(scope="module")
def bank_of(pictogram_vlm: VLM) -> Callable[..., ImageBank]:
    """Banks by kind and seed, each built once."""
    built: dict[tuple[str, int], ImageBank] = {}

    def bank(kind: str, seed: int = 0) -> ImageBank:
        if (kind, seed) not in built:
            images = load_images(f"planted:{kind}")
            built[kind, seed] = build_bank(pictogram_vlm, images, seed=seed, progress=False)
        return built[kind, seed]

    return bank


@pytest.fixture(scope="module")
def sentence_vectors(pictogram_vlm: VLM) -> dict[str, torch.Tensor]:
    """Vectors of all sentences as they are planted, without the names of their classes."""
    texts = [text for kind in PLANTED for own in load_planted(kind).sentences for text in own]
    return dict(zip(texts, pictogram_vlm.encode_texts(texts), strict=True))


def position_of(image_id: str) -> tuple[str, int]:
    """Class name and position of the sentence that a row stands in for."""
    name, position, _ = re.fullmatch(r"(.+)/(\d+)-(\d+)", image_id).groups()  # type: ignore[union-attr]
    return name, int(position)


# ---------------------------------------------------------------- the sentences


def test_eight_sentences_for_each_class_and_category() -> None:
    assert Counter((row["class_name"], row["category"]) for row in ROWS) == {
        (name, category): EACH for name in {row["class_name"] for row in ROWS} for category in PLANTED
    }
    assert len({row["class_name"] for row in ROWS}) == 16
    texts = [row["text"] for row in ROWS]
    assert len(set(texts)) == len(texts)
    assert all(text == " ".join(text.split()) and text.endswith((".", "?")) for text in texts)
    # Without names they are distinct still, so that no sentence can stand on both sides of a split, or for two classes.
    assert len({strip_whole_name(row["text"], row["class_name"]) for row in ROWS}) == len(texts)


def test_the_name_is_in_every_sentence_and_is_not_planted() -> None:
    named = [row for row in ROWS if re.search(rf"\b{row['class_name']}", row["text"], re.IGNORECASE)]
    assert len(named) == len(ROWS)
    for kind in PLANTED:
        planted = load_planted(kind)
        for name, own in zip(planted.class_names, planted.sentences, strict=True):
            assert not [text for text in own if re.search(rf"\b{name}s?\b", text, re.IGNORECASE)]


def test_the_judge_never_saw_these_sentences() -> None:
    """Else its verdict on planted preferences would be one on its own training data."""
    train = SENTENCES.parents[1] / "judge" / "train.jsonl"

    def words(row: dict[str, str]) -> str:
        return " ".join(re.findall(r"\w+", strip_whole_name(row["text"], row["class_name"]).casefold()))

    seen = {words(json.loads(line)) for line in train.read_text(encoding="utf-8").splitlines()}
    assert len(seen) > 1_000
    assert not [row["text"] for row in ROWS if words(row) in seen]


# ---------------------------------------------------------------- specs


@pytest.mark.parametrize("kind", KINDS)
def test_sets_have_sixteen_classes_in_alphabetic_order(kind: str) -> None:
    images = load_images(f"planted:{kind}")
    assert isinstance(images, PlantedImages)
    assert (images.name, images.kind) == (f"planted:{kind}", kind)
    assert len(images.class_names) == 16
    assert list(images.class_names) == sorted({row["class_name"] for row in ROWS})
    # Of random directions only their number counts.
    expected = PLANTED if kind == "swapped" else (kind,) if kind in PLANTED else PLANTED[:1]
    own = {(r["class_name"], strip_whole_name(r["text"], r["class_name"])) for r in ROWS if r["category"] in expected}
    about = images.class_names[1:] + images.class_names[:1] if kind == "swapped" else images.class_names
    assert {(n, t) for n, texts in zip(about, images.sentences, strict=True) for t in texts} == own
    assert [len(texts) for texts in images.sentences] == [EACH * len(expected)] * 16
    if kind in PLANTED:
        of_others = {(r["class_name"], strip_whole_name(r["text"], r["class_name"])) for r in ROWS} - own
        assert {(n, t) for n, texts in zip(images.class_names, images.others, strict=True) for t in texts} == of_others
    else:
        assert images.others == ()


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("habitats", " Did you mean habitat?"),
        ("non-visual", " Did you mean non_visual?"),
        ("Random", " Did you mean random?"),
        ("zebra", ""),
        ("", ""),
    ],
)
def test_unknown_kind_is_refused_with_the_nearest_one(kind: str, hint: str) -> None:
    known = "visual, habitat, non_visual, spurious, random, common, swapped"
    message = f"dataset 'planted:{kind}': the planted kind must be one of {known}.{hint}"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        load_images(f"planted:{kind}")


def test_misspelt_scheme_leads_here() -> None:
    assert any(form == "planted:KIND" for form, _ in list_datasets())
    with pytest.raises(UserError, match=r"unknown image set 'plnted:habitat'\. Did you mean 'planted:habitat'\?"):
        load_images("plnted:habitat")
    with pytest.raises(UserError, match=r"Did you mean 'planted:visual'\?"):
        load_images("planted")


# ---------------------------------------------------------------- banks


@pytest.mark.parametrize("kind", KINDS)
def test_banks_are_like_those_of_images(bank_of: Callable[..., ImageBank], kind: str) -> None:
    bank = bank_of(kind)
    assert bank.embeddings.dtype == torch.float32
    assert torch.allclose(bank.embeddings.norm(dim=1), torch.ones(len(bank)), atol=1e-5)
    each = EACH * (len(PLANTED) if kind == "swapped" else 1)
    assert len(bank) == len(set(bank.image_ids)) == 16 * each * COPIES
    assert bank.reward_counts == bank.heldout_counts == (each // 2 * COPIES,) * 16
    assert bank.labels.tolist() == sorted(bank.labels.tolist())
    assert (bank.dataset, bank.vlm_name, bank.skipped) == (f"planted:{kind}", "pictogram", ())
    assert [position_of(i)[0] for i in bank.image_ids] == [bank.class_names[k] for k in bank.labels]


@pytest.mark.parametrize("kind", PLANTED)
def test_no_sentence_is_on_both_sides(bank_of: Callable[..., ImageBank], kind: str) -> None:
    bank = bank_of(kind)
    sides = [{position_of(bank.image_ids[row]) for row in bank.rows(s).tolist()} for s in ("reward", "heldout")]
    assert not sides[0] & sides[1]
    assert len(sides[0]) == len(sides[1]) == 16 * EACH // 2


def test_rows_are_their_sentences_with_noise(
    bank_of: Callable[..., ImageBank], sentence_vectors: dict[str, torch.Tensor]
) -> None:
    """Each minus the mean of the class's sentences of the other categories."""
    bank, planted = bank_of("habitat"), load_planted("habitat")
    clean = []
    for image_id in bank.image_ids:
        name, position = position_of(image_id)
        class_id = planted.class_names.index(name)
        common = torch.stack([sentence_vectors[text] for text in planted.others[class_id]]).mean(dim=0)
        particular = sentence_vectors[planted.sentences[class_id][position]] - common
        clean.append(particular / particular.norm())
    cosines = (bank.embeddings * torch.stack(clean)).sum(dim=1)
    # Noise of length 0.5 at a right angle to the sentence would give 1 / sqrt(1 + 0.25) = 0.894; in 384 dimensions it
    # stands at nearly that.
    assert cosines.mean().item() == pytest.approx(1 / (1 + NOISE**2) ** 0.5, abs=0.005)
    assert cosines.min().item() > 0.8
    # Copies of one sentence differ: their noise is not the same.
    assert len({tuple(row[:4].tolist()) for row in bank.embeddings}) == len(bank)
    own = cosines.new_tensor(
        [(bank.embeddings[i] @ bank.embeddings[i + 1]).item() for i in range(0, len(bank), COPIES)]
    )
    assert own.mean().item() == pytest.approx(1 / (1 + NOISE**2), abs=0.03)


def test_seed_decides_sides_and_noise(bank_of: Callable[..., ImageBank], pictogram_vlm: VLM) -> None:
    for kind in ("habitat", "random"):
        first, other = bank_of(kind), bank_of(kind, seed=1)
        again = build_bank(pictogram_vlm, load_images(f"planted:{kind}"), seed=0, progress=False)
        assert torch.equal(again.embeddings, first.embeddings)
        assert again.image_ids == first.image_ids
        assert not torch.allclose(first.embeddings, other.embeddings, atol=0.1)
    sides = [
        {position_of(bank.image_ids[row]) for row in bank.rows("reward").tolist()}
        for bank in (bank_of("habitat"), bank_of("habitat", seed=1))
    ]
    assert sides[0] != sides[1]


def test_other_random_numbers_are_neither_used_nor_moved(pictogram_vlm: VLM) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    plant(load_planted("random"), pictogram_vlm, seed=0)
    assert torch.equal(torch.rand(1), expected)


def cosines_by_category(
    bank: ImageBank, kind: str, sentence_vectors: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cosines (class, category) of each class's sentences with what stands in for its held-out images.

    First of all sentences, then of those that do not stand in for an image themselves.
    """
    heldout = {position_of(bank.image_ids[row]) for row in bank.rows("heldout").tolist()}
    every, unseen = [], []
    for class_id, name in enumerate(bank.class_names):
        every.append([])
        unseen.append([])
        for category in PLANTED:
            texts = load_planted(category).sentences[class_id]
            own = (torch.stack([sentence_vectors[text] for text in texts]) @ bank.heldout_prototypes[class_id]).tolist()
            others = [c for i, c in enumerate(own) if category != kind or (name, i) not in heldout]
            every[-1].append(sum(own) / len(own))
            unseen[-1].append(sum(others) / len(others))
    return torch.tensor(every), torch.tensor(unseen)


@pytest.mark.parametrize("kind", PLANTED)
def test_classes_prefer_their_kind(
    bank_of: Callable[..., ImageBank], sentence_vectors: dict[str, torch.Tensor], kind: str
) -> None:
    every, _ = cosines_by_category(bank_of(kind), kind, sentence_vectors)
    assert (every.argmax(dim=1) == PLANTED.index(kind)).all()


@pytest.mark.parametrize("kind", PLANTED)
def test_the_name_of_a_class_is_not_what_is_planted(
    bank_of: Callable[..., ImageBank], pictogram_vlm: VLM, sentence_vectors: dict[str, torch.Tensor], kind: str
) -> None:
    """To a VLM all sentences about a class are near its name: a bare name must lie behind what the kind says, unseen or not."""
    bank = bank_of(kind)
    names = pictogram_vlm.encode_texts([f"{name}." for name in bank.class_names])
    bare = (names * bank.heldout_prototypes).sum(dim=1).mean()
    _, unseen = cosines_by_category(bank, kind, sentence_vectors)
    assert bare < unseen.mean(dim=0)[PLANTED.index(kind)] - 0.02


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_kind_carries_over_to_its_other_sentences(
    bank_of: Callable[..., ImageBank], sentence_vectors: dict[str, torch.Tensor], kind: str
) -> None:
    # What stands in for held-out images is some of the kind's own sentences. The others of the kind are nearer as well, on
    # the mean over classes: a policy that is rewarded with them learns what carries over.
    _, unseen = cosines_by_category(bank_of(kind), kind, sentence_vectors)
    means = unseen.mean(dim=0)
    others = torch.cat([means[: PLANTED.index(kind)], means[PLANTED.index(kind) + 1 :]])
    assert means[PLANTED.index(kind)] > others.max() + 0.05


def test_random_classes_have_nothing_to_do_with_sentences(
    bank_of: Callable[..., ImageBank], sentence_vectors: dict[str, torch.Tensor]
) -> None:
    bank = bank_of("random")
    for category in PLANTED:
        own = [
            (sentence_vectors[text] @ prototype).item()
            for texts, prototype in zip(load_planted(category).sentences, bank.heldout_prototypes, strict=True)
            for text in texts
        ]
        # A cosine with a random direction in 384 dimensions has a standard deviation of 0.05; this is a mean over 16 classes.
        assert abs(sum(own) / len(own)) < 4 * 0.05 / 16**0.5
    between = bank.heldout_prototypes @ bank.heldout_prototypes.T
    assert between.fill_diagonal_(0).abs().max() < 0.3
    # Reward and held-out images of a class are about the same direction all the same: there is something to climb.
    assert (bank.prototypes * bank.heldout_prototypes).sum(dim=1).min() > 0.5


def test_common_classes_share_a_direction_and_nothing_else(bank_of: Callable[..., ImageBank]) -> None:
    """Two unit directions of which one is shared: a cosine of 1/2 between classes, noise apart, and none once it is taken out."""
    prototypes = torch.nn.functional.normalize(bank_of("common").heldout_prototypes, dim=1)
    between = (prototypes @ prototypes.T)[~torch.eye(16, dtype=torch.bool)]
    assert between.mean() == pytest.approx(0.5, abs=0.05)
    assert between.min() > 0.25
    left = torch.nn.functional.normalize(prototypes - prototypes.mean(dim=0), dim=1)
    assert (left @ left.T)[~torch.eye(16, dtype=torch.bool)].mean() == pytest.approx(-1 / 15, abs=0.01)
