"""Readable class names: from the labels of the benchmark sets' files to what is put into questions and texts.

Capitals stay as the set has them: they are those of proper names ("Border collie", "great white shark").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

# Qualifiers of Places365 that are read after the noun ("elevator door"); the others are adjectives ("indoor church").
_NOUN_FIRST = ("door", "ocean deep", "platform", "shop")

# As the EuroSAT paper writes them; the folders' names cut them short.
_EUROSAT = {"Industrial": "industrial buildings", "Residential": "residential buildings", "SeaLake": "sea or lake"}

# ImageNet's words for two things at once, told apart. Lists of names differ in which of them they repeat.
_HOMONYMS = {
    "n02012849": "crane bird",
    "n03126707": "construction crane",
    "n02113186": "Cardigan Welsh corgi",
    "n02963159": "cardigan",
    "n03710637": "maillot",
    "n03710721": "tank suit",
    "n03773504": "missile",
    "n04008634": "projectile",
    "n04355933": "sunglass",
    "n04356056": "sunglasses",
}

_FLOWERS = """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid, bird
of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris, globe-flower,
purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower, fritillary, red
ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet william, carnation,
garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort,
siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, wallflower, marigold,
buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff,
gaura, geranium, orange dahlia, pink-yellow dahlia, cautleya spicata, japanese anemone, black-eyed susan, silverbush,
californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy, gazania, azalea, water lily,
rose, thorn apple, morning glory, passion flower, lotus, toad lily, anthurium, frangipani, clematis, hibiscus,
columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum, bee balm, ball moss,
foxglove, bougainvillea, camellia, mallow, mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily
"""

FLOWERS = tuple(" ".join(_FLOWERS.split()).split(", "))
"""The 102 classes of Flowers-102 in the order of its labels 1 ... 102; its files hold numbers only."""


def class_name_of(label: str) -> str:
    """The class name of a folder or label: underscores are blanks, blanks are collapsed and stripped."""
    return " ".join(label.replace("_", " ").split())


OPTION = "class_names="
"""What names the file in a dataset's spec: ``folder:DIR?class_names=FILE``."""

_SPLITS = {
    "reward": "reward", "train": "reward", "training": "reward", "trainval": "reward",
    "heldout": "heldout", "test": "heldout", "testing": "heldout", "eval": "heldout", "evaluation": "heldout",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip


def split_of(label: str) -> str | None:
    """The split that a folder or column calls by one of its usual names, ``train``, ``val_set`` or ``test2017``; else None."""
    word = re.sub(r"[\s_-]*(set|split|data|images?|imgs?|\d+)$", "", label.strip().lower()).replace("-", "")
    return _SPLITS.get(word)


def with_class_names(spec: str, file: str | None) -> str:
    """A dataset's spec that says where the names of its classes are; unchanged without a file, or where it says so already."""
    if file is None or OPTION in spec:
        return spec
    return f"{spec}{'&' if '?' in spec else '?'}{OPTION}{file}"


def split_class_names(spec: str) -> tuple[str, str | None]:
    """A spec without its file of class names, and that file."""
    before, found, file = spec.rpartition(OPTION)
    if not found or before[-1:] not in ("?", "&"):
        return spec, None
    file, _, after = file.partition("&")
    return (before + after if after else before[:-1]), file


def with_noun(name: str, noun: str) -> str:
    """``name`` followed by ``noun`` unless it has it already: "beagle dog", but "Old English sheepdog"."""
    return name if noun in name.lower() else f"{name} {noun}"


def cub_name(label: str) -> str:
    """``001.Black_footed_Albatross`` is "Black footed Albatross"."""
    return class_name_of(re.sub(r"^\d+\.", "", label))


def dog_name(folder: str) -> str:
    """``n02085620-Chihuahua`` is "Chihuahua dog"."""
    return with_noun(class_name_of(re.sub(r"^n\d{8}-", "", folder)), "dog")


def pet_name(label: str) -> str:
    """``american_pit_bull_terrier`` is "American Pit Bull Terrier"."""
    return " ".join(word[0].upper() + word[1:] for word in class_name_of(label).split())


def eurosat_name(folder: str) -> str:
    """``AnnualCrop`` is "annual crop"; ``SeaLake`` is "sea or lake"."""
    return _EUROSAT.get(folder) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder).lower()


def place_name(category: str) -> str:
    """``/a/apartment_building/outdoor`` is "outdoor apartment building"; ``/a/`` only sorts."""
    place, *qualifiers = (class_name_of(part) for part in category.split("/")[2:])
    before = ["Asian" if qualifier == "asia" else qualifier for qualifier in qualifiers if qualifier not in _NOUN_FIRST]
    return " ".join([*before, place, *(qualifier for qualifier in qualifiers if qualifier in _NOUN_FIRST)])


def synset_names(synonyms: Mapping[str, str]) -> dict[str, str]:
    """One name for each WordNet id of ImageNet, no two alike.

    The name is the first synonym. Where several synsets share it, whatever its capitals, EX2's own words tell them
    apart ("crane bird", "construction crane"), or else the id in brackets does.

    Args:
        synonyms: WordNet id, and its synonyms with commas between: ``{"n02071294": "killer whale, killer, orca"}``.
    """
    first = {wnid: class_name_of(words.split(", ")[0]) for wnid, words in synonyms.items()}
    uses = Counter(name.lower() for name in first.values())
    return {
        wnid: name if uses[name.lower()] == 1 else _HOMONYMS.get(wnid, f"{name} ({wnid})")
        for wnid, name in first.items()
    }
