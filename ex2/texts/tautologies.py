"""Texts that say nothing: "A crab is a crab.", "A dolphin is a majestic marine mammal."

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
    crops crustacean crustaceans domestic domesticated emoji entity equine feline felines fish fishes flower
    flowering flowers food foods fowl fruit fruits fungi fungus herb herbivore herbivores herbs icon image
    insect insects invertebrate invertebrates item leaf leaves lifeform livestock mammal mammalian mammals
    marine marsupial marsupials mollusc mollusk mollusks nut object omnivore omnivores organism organisms pet
    pets photo picture plant plants poultry predator predators primate primates produce reptile reptiles rodent
    rodents ruminant seafood shellfish shrub shrubs succulent symbol terrestrial tree trees vegetable vegetables
    vehicle vehicles vertebrate vertebrates vessel waterfowl wild wildlife worm worms
    """
)

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

_EMPTY = _JOINING | _KINDS | _PRAISE


def says_nothing(text: str, class_name: str) -> bool:
    """Whether a text says nothing but the name of its class and what kind of thing that is, praise apart."""
    rest = re.findall(r"[^\W\d_]+", strip_name(text, class_name).casefold())
    return all(word in _EMPTY for word in rest)


def tautology_rate(texts: Sequence[str], class_names: Sequence[str]) -> float:
    """Share of N texts that say nothing about their class, whose names are given one by one; 0 without texts."""
    empty = [says_nothing(text, name) for text, name in zip(texts, class_names, strict=True)]
    return sum(empty) / len(empty) if empty else 0.0
