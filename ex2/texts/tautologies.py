"""Texts that say nothing: "A crab is a crab.", "A dolphin is a majestic marine mammal."

`says_nothing` is what a reward can ask; `echoes_name` and `names_kind` tell apart what such texts do instead, for judges.

A text says nothing if it holds no word besides the name of its class, words for kinds of things, praise, and the small words
that join them. The lists are short on purpose: a word that is not on them counts as something said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ex2.texts.class_names import strip_name


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_JOINING = _words(
    """
    a about all also always among an and any are as at be been being belonging belongs both but by called can
    category class common commonly different each either entire ever every family few for form found from
    general generally group has have he her his how i if in indeed is it its itself just kind kinds known like
    made many may me member more most much my name named no nor not of often on one only or other others our own
    part particular quite range rather really referred same see seen set several she so some sort sorts species
    such than that the their them there these they thing things this those to too truly two type types typically
    unto up us used usually variety various very was we well were what when where which while who whose will
    with within would you your
    """
)

_KINDS = _words(
    """
    amphibian amphibians animal animals aquatic arachnid arachnids arthropod arthropods beast beasts being
    beings bird birds bovine canine carnivore carnivores cephalopod cephalopods cetacean creature creatures crop
    crops crustacean crustaceans domestic domesticated entity equine feline felines fish fishes flower
    flowering flowers food foods fowl fruit fruits fungi fungus herb herbivore herbivores herbs
    insect insects invertebrate invertebrates item leaf leaves lifeform livestock mammal mammalian mammals
    marine marsupial marsupials mollusc mollusk mollusks nut object omnivore omnivores organism organisms pet
    pets plant plants poultry predator predators primate primates produce reptile reptiles rodent
    rodents ruminant seafood shellfish shrub shrubs succulent terrestrial tree trees vegetable vegetables
    vehicle vehicles vertebrate vertebrates vessel waterfowl wild wildlife worm worms
    """
)

_DEPICTIONS = _words("emoji icon image photo picture symbol")

_PRAISE = _words(
    """
    adorable amazing awesome beautiful beautifully beauty beloved breathtaking captivating charming cherished
    classic cute delicate delightful distinct distinctive elegance elegant enchanting exceptional exquisite
    extraordinary famous fantastic fascinating favorite favourite fine friendly gorgeous grace graceful great
    iconic important impressive incredible incredibly interesting intricate intriguing legendary lovely magical
    magnificent majestic majesty marvellous marvelous memorable mysterious nice noble notable outstanding
    perfect pleasant popular precious prized rare recognisable recognizable remarkable special spectacular
    splendid striking stunning sweet symbolic timeless treasured true unique uniquely unusual versatile wonder
    wonderful wonders
    """
)

_EMPTY = _JOINING | _KINDS | _DEPICTIONS | _PRAISE


_RELATED = re.compile(r"\b(?:with|without|has|have|had|having|its|their|his|her|in|on|from|by|for|to)\b", re.IGNORECASE)


def says_nothing(text: str, class_name: str) -> bool:
    """Whether a text says nothing but the name of its class and what kind of thing that is, praise apart."""
    rest = re.findall(r"[^\W\d_]+", strip_name(text, class_name).casefold())
    return all(word in _EMPTY for word in rest)


def echoes_name(text: str, class_name: str) -> bool:
    """Whether a text says the name of its class, or a part of it, and no other word that counts: "A crab is a crab."."""
    return not _besides_name(text, class_name) and strip_name(text, class_name) != " ".join(text.split())


def names_kind(text: str, class_name: str) -> bool:
    """Whether a text says only what kind of thing its class is: "A dolphin is a majestic marine mammal.".

    Only kinds on the list are known, and there must be as many words for them as there are of praise. What the thing has or
    where it is ("with a flower", "on plants") is no kind.
    """
    if _RELATED.search(text):
        return False
    said = _besides_name(text, class_name)
    kinds = sum(word in _KINDS for word in said)
    praise = sum(word in _PRAISE for word in said)
    return kinds > 0 and kinds + praise == len(said) and kinds >= praise


def is_bare(text: str, class_name: str) -> bool:
    """Whether a text holds one word at most besides the name of its class, praise and what joins them: "A tern is a bird."."""
    return len({word for word in _besides_name(text, class_name) if word not in _PRAISE}) <= 1


def _besides_name(text: str, class_name: str) -> list[str]:
    """The words and numbers of a text without the name of its class and the words that join."""
    words = re.findall(r"[^\W_]+", re.sub(r"['’]s\b", "", strip_name(text, class_name).casefold()))
    return [word for word in words if word not in _JOINING]


def tautology_rate(texts: Sequence[str], class_names: Sequence[str]) -> float:
    """Share of N texts that say nothing about their class, whose names are given one by one; 0 without texts."""
    empty = [says_nothing(text, name) for text, name in zip(texts, class_names, strict=True)]
    return sum(empty) / len(empty) if empty else 0.0
