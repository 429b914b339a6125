"""Step ``rasterise``: draw every pictogram at 96 px and assign it to a class by its Unicode name."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools.build_pictograms.common import FAMILIES, IMAGE_SIZE, Family, Work

VARIATION_SELECTOR = "fe0f"
INK = "#222"
SKIPPED_GROUPS = ("component", "flags")
# Icons of fxemoji whose name means another class than Unicode's name for it.
FXEMOJI_NAMES = {
    "bactriancamel": "twohumpcamel",
    "dromedarycamel": "camel",
    "tiger": "tigerface",
    "tigerside": "tiger",
}
SKIN_TONE = re.compile(r"skin-tone|-(light|medium|dark|medium-light|medium-dark)$")


def read_json(path: Path) -> Any:
    """Read one JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def normalise(name: str) -> str:
    """Reduce a name to lower-case letters and digits (``Palm tree`` -> ``palmtree``)."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def codepoint_key(emoji: str) -> str:
    """Return the code points of an emoji without variation selectors (``1f42f`` or ``1f468-200d-1f33e``)."""
    return "-".join(f"{ord(char):x}" for char in emoji if f"{ord(char):x}" != VARIATION_SELECTOR)


def strip_selector(codepoints: str) -> str:
    """Drop variation selectors and leading zeros from a dash-separated list of code points."""
    return "-".join(f"{int(part, 16):x}" for part in codepoints.split("-") if part != VARIATION_SELECTOR)


def load_classes(node_modules: Path) -> dict[str, dict[str, Any]]:
    """Return the classes (one an emoji, without flags, components and keycaps) by code point key."""
    data = read_json(node_modules / "emojibase-data/en/data.json")
    groups = read_json(node_modules / "emojibase-data/meta/groups.json")
    classes: dict[str, dict[str, Any]] = {}
    for entry in data:
        group = groups["groups"].get(str(entry.get("group")))
        if group is None or group in SKIPPED_GROUPS or "keycap" in entry["label"]:
            continue
        classes[codepoint_key(entry["emoji"])] = {
            "emoji": entry["emoji"],
            "name": entry["label"].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"),
            "tags": entry.get("tags", []),
            "group": group,
            "subgroup": groups["subgroups"].get(str(entry["subgroup"]), ""),
        }
    return classes


def name_table(
    classes: Mapping[str, Mapping[str, Any]], unicode_names: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Map normalised names (CLDR label, character name, short name) to class keys; the first name given wins."""
    table: dict[str, str] = {}
    for key, entry in classes.items():
        names = [entry["name"]]
        bare = entry["emoji"].replace("\ufe0f", "")
        if len(bare) == 1:
            names.append(unicodedata.name(bare, ""))
        if entry["emoji"] in unicode_names:
            names += [unicode_names[entry["emoji"]]["name"], unicode_names[entry["emoji"]]["slug"]]
        for name in names:
            if normalise(name):
                table.setdefault(normalise(name), key)
    return table


def class_of_icon(icon: str, family: str, names: Mapping[str, str], other_names: Mapping[str, str]) -> str | None:
    """Return the class key of an icon that has only a name, or None.

    ``names`` maps Unicode names, ``other_names`` the icon names of families that list code points.
    """
    if SKIN_TONE.search(icon):
        return None
    query = normalise(icon)
    if family == "fxemoji":
        query = FXEMOJI_NAMES.get(query, query)
    key = names.get(query) or other_names.get(query)
    if key is None and family == "streamline-emojis":
        key = names.get(re.sub(r"\d+$", "", query))
    return key


def codepoint_names(node_modules: Path, family: Family, classes: Mapping[str, Any]) -> dict[str, str]:
    """Return icon name -> class key for a family that publishes the code points of its icons."""
    path = node_modules / family.package / "chars.json"
    if not path.is_file():
        return {}
    pairs = ((name, strip_selector(chars)) for chars, name in read_json(path).items())
    return {name: key for name, key in pairs if key in classes}


def icon_body(icons: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return the drawing of an icon, following a plain alias (one that neither rotates nor flips)."""
    if name in icons["icons"]:
        return icons["icons"][name]
    alias = icons.get("aliases", {}).get(name)
    if alias is None or any(key in alias for key in ("rotate", "hFlip", "vFlip")):
        return None
    return icons["icons"].get(alias["parent"])


def svg_of(icon: Mapping[str, Any], width: float, height: float) -> str:
    """Wrap an icon body into a complete SVG document, drawing single-colour icons in dark ink."""
    box = (icon.get("left", 0), icon.get("top", 0), icon.get("width", width), icon.get("height", height))
    view = " ".join(str(value) for value in box)
    body = icon["body"].replace("currentColor", INK)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{view}" color="{INK}">{body}</svg>'


def draw(svg: str) -> np.ndarray:
    """Rasterise an SVG to a centred (96, 96, 4) uint8 array; raise ValueError if nothing is drawn."""
    import resvg_py

    data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=IMAGE_SIZE, height=IMAGE_SIZE))
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        canvas = Image.new("RGBA", (IMAGE_SIZE, IMAGE_SIZE))
        canvas.paste(image, ((IMAGE_SIZE - image.width) // 2, (IMAGE_SIZE - image.height) // 2))
        image = canvas
    pixels = np.asarray(image)
    if pixels[..., 3].max() < 30:
        raise ValueError("empty drawing")
    return pixels


def draw_icon_family(
    node_modules: Path, family: Family, classes: Mapping[str, Any], names: Mapping[str, str], others: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rasterise one SVG family; return images by class key and the names of icons that could not be drawn."""
    icons = read_json(node_modules / family.package / "icons.json")
    keys = codepoint_names(node_modules, family, classes)
    for icon in icons["icons"]:
        if icon not in keys and (key := class_of_icon(icon, family.name, names, others)):
            keys[icon] = key
    images: dict[str, np.ndarray] = {}
    failures: list[str] = []
    for icon, key in keys.items():
        body = icon_body(icons, icon)
        if body is None or key in images:
            continue
        try:
            images[key] = draw(svg_of(body, icons.get("width", 16), icons.get("height", 16)))
        except (ValueError, OSError, RuntimeError) as error:
            failures.append(f"{icon}: {error}")
    return images, failures


def load_bitmap_family(node_modules: Path, family: Family, classes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the images of a family that ships bitmaps named by code points, scaled to 96 px."""
    images: dict[str, np.ndarray] = {}
    for path in sorted((node_modules / family.package / "assets").glob("*.webp")):
        key = strip_selector(path.stem)
        if key in classes:
            image = Image.open(path).convert("RGBA").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
            images[key] = np.asarray(image)
    return images


def rasterise(work: Work) -> None:
    """Rasterise all families and write the image array and the index."""
    modules = work.node_modules
    classes = load_classes(modules)
    names = name_table(classes, read_json(modules / "unicode-emoji-json/data-by-emoji.json"))
    others: dict[str, str] = {}
    for family in FAMILIES:
        for icon, key in codepoint_names(modules, family, classes).items():
            others.setdefault(normalise(icon), key)
    position = {key: number for number, key in enumerate(classes)}
    pixels: list[np.ndarray] = []
    index: list[tuple[str, int]] = []
    for family in FAMILIES:
        failures: list[str] = []
        if (modules / family.package / "icons.json").is_file():
            images, failures = draw_icon_family(modules, family, classes, names, others)
        else:
            images = load_bitmap_family(modules, family, classes)
        pixels += images.values()
        index += [(family.name, position[key]) for key in images]
        print(f"{family.name}: {len(images)} classes, {len(failures)} icons not drawn {failures[:3]}", flush=True)
    np.save(work.images, np.stack(pixels))
    work.index.write_text(json.dumps({"classes": list(classes.values()), "images": index}), encoding="utf-8")
    print(f"{len(pixels)} images of {len(classes)} classes")
