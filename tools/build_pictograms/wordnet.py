"""Reading WordNet's noun database: glosses, synonyms and hypernyms of a class name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Lexicographer file numbers of WordNet.
COGNITION_ACT, ANIMAL, ARTIFACT, BODY, FOOD, GROUP_LOCATION = 4, 5, 6, 8, 13, 15
OBJECT, PERSON, PHENOMENON, PLANT = 17, 18, 19, 20
LIVING_OR_FOOD = (ANIMAL, PLANT, FOOD, OBJECT, ARTIFACT)

# Class names whose WordNet lemma differs.
LEMMAS = {
    "lady beetle": "ladybug",
    "front-facing baby chick": "chick",
    "baby chick": "chick",
    "hatching chick": "chick",
    "spouting whale": "whale",
    "ear of corn": "corn",
    "hot pepper": "chili",
    "sheaf of rice": "rice",
    "spiral shell": "seashell",
    "blowfish": "puffer",
    "two-hump camel": "bactrian_camel",
    "camel": "arabian_camel",
    "tropical fish": "fish",
    "evergreen tree": "conifer",
    "four leaf clover": "four-leaf_clover",
    "red apple": "apple",
    "green apple": "apple",
    "cherry blossom": "cherry_tree",
    "kiwi fruit": "kiwi",
    "automobile": "car",
    "maple leaf": "maple",
}
# Hypernyms too general to say anything about a picture; the walk upwards stops there.
TOO_GENERAL = frozenset(
    {
        "entity", "physical entity", "object", "whole", "artifact", "matter", "living thing", "organism",
        "instrumentality", "substance", "abstraction", "unit", "causal agent", "relation", "thing", "solid",
        "psychological feature", "attribute", "part", "vascular plant", "chordate", "vertebrate", "placental",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Synset:
    """One noun sense: lexicographer file, words, offsets of its hypernyms, gloss without examples."""

    lexicographer: int
    words: tuple[str, ...]
    hypernyms: tuple[str, ...]
    gloss: str


def parse_synset(line: str) -> tuple[str, Synset]:
    """Parse one line of ``data.noun`` into its offset and synset."""
    head, gloss = line.split(" | ", 1)
    fields = head.split()
    count = int(fields[3], 16)
    words = tuple(fields[4 + 2 * number].replace("_", " ") for number in range(count))
    pointers = fields[4 + 2 * count :]
    hypernyms = tuple(
        pointers[2 + 4 * number] for number in range(int(pointers[0])) if pointers[1 + 4 * number] in ("@", "@i")
    )
    return fields[0], Synset(int(fields[1]), words, hypernyms, gloss.split(";")[0].split('"')[0].strip())


def preferred_files(subgroup: str, group: str) -> tuple[int, ...]:
    """Return the lexicographer files in which to look for a class, best first."""
    if subgroup.startswith("animal") or subgroup in ("monkey-face", "cat-face"):
        return (ANIMAL,)
    if subgroup.startswith("plant"):
        return (PLANT,)
    if subgroup in ("food-fruit", "food-vegetable"):
        return (FOOD, PLANT)
    if subgroup.startswith("food") or subgroup == "drink":
        return (FOOD,)
    by_group = {
        "travel-places": (ARTIFACT, OBJECT, PHENOMENON, GROUP_LOCATION),
        "objects": (ARTIFACT, COGNITION_ACT),
        "activities": (ARTIFACT, COGNITION_ACT),
        "people-body": (PERSON, BODY),
    }
    return by_group.get(group, (OBJECT, ARTIFACT, PERSON, PHENOMENON))


class WordNet:
    """The noun senses of WordNet."""

    def __init__(self, folder: Path) -> None:
        """Read ``index.noun`` and ``data.noun`` from a folder."""
        self.senses: dict[str, list[str]] = {}
        self.synsets: dict[str, Synset] = {}
        for line in self._lines(folder / "index.noun"):
            fields = line.split()
            self.senses[fields[0]] = fields[-int(fields[2]) :]
        for line in self._lines(folder / "data.noun"):
            offset, synset = parse_synset(line)
            self.synsets[offset] = synset

    @staticmethod
    def _lines(path: Path) -> Iterator[str]:
        """Yield the data lines of a WordNet file (the licence lines start with a space)."""
        with path.open(encoding="utf-8") as stream:
            yield from (line for line in stream if not line.startswith(" "))

    def find(self, name: str, subgroup: str, group: str) -> Synset | None:
        """Return the sense of a class name that fits its subgroup, or None."""
        query = LEMMAS.get(name, name.lower().replace(" ", "_"))
        candidates = [query]
        candidates += [re.sub(pattern, "", query) for pattern in ("_face$", "s$", "es$", "_(fruit|bread|hat)$")]
        tangible = subgroup.startswith(("animal", "plant", "food"))
        for candidate in candidates:
            senses = [self.synsets[offset] for offset in self.senses.get(candidate, ())]
            for number in preferred_files(subgroup, group):
                for sense in senses:
                    if sense.lexicographer == number:
                        return sense
            fallback = [sense for sense in senses if not tangible or sense.lexicographer in LIVING_OR_FOOD]
            if fallback:
                return fallback[0]
        return None

    def hypernym_names(self, synset: Synset, depth: int = 5) -> list[str]:
        """Return the first word of each hypernym upwards, until one is too general."""
        names: list[str] = []
        while synset.hypernyms and len(names) < depth:
            synset = self.synsets[synset.hypernyms[0]]
            if synset.words[0] in TOO_GENERAL:
                break
            names.append(synset.words[0])
        return names
