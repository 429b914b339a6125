"""Classify a folder of images with a bundle that `ex2 export` wrote. Needs open_clip and safetensors, not EX2.

    python examples/classify_with_bundle.py BUNDLE IMAGES --model ViT-B-32 --pretrained openai
    python examples/classify_with_bundle.py BUNDLE IMAGES --model local-dir:DIR --texts
    python examples/classify_with_bundle.py BUNDLE IMAGES --model pictogram

The model must be the one that manifest.json names under "classifier"; `pictogram`, the embedded one, is no open_clip model
and comes with EX2. With --texts the weights are computed from descriptions.json instead, so any model will do. In a folder
of one sub-folder a class, accuracy is printed too.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch.nn.functional import normalize

# Whatever Pillow reads by itself; for these it would run another program.
SUFFIXES = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN} - {".eps", ".ps"}

# Embeddings (N, D) of images, and of texts.
Encoders = tuple[Callable[[list[Image.Image]], torch.Tensor], Callable[[list[str]], torch.Tensor]]


def load(name: str, pretrained: str | None) -> Encoders:
    """The encoders of an open_clip model, or of the embedded one."""
    if name == "pictogram":
        from ex2 import load_vlm

        vlm = load_vlm(name)
        return vlm.encode_images, vlm.encode_texts
    model, preprocess = open_clip.create_model_from_pretrained(name, pretrained=pretrained)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    return (
        lambda images: model.encode_image(torch.stack([preprocess(image) for image in images])),
        lambda texts: model.encode_text(tokenizer(texts)),
    )


def on_white(path: Path) -> Image.Image:
    """An image upright and as RGB; what is transparent becomes white."""
    with Image.open(path) as file:
        if file.mode == "F" or file.mode.startswith("I"):  # which Pillow would cut off at 255
            raise ValueError("its greys have more than 8 bits: save it with 8")
        image = ImageOps.exif_transpose(file).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def read(bundle: Path, name: str, without: str) -> Path:
    """A file of the bundle; where it has none, ValueError says what to do `without` it."""
    if not (bundle / name).is_file():
        raise ValueError(f"{bundle} holds no {name}: {without}")
    return bundle / name


@torch.no_grad()
def classifier(bundle: Path, encode_texts: Callable[[list[str]], torch.Tensor] | None) -> torch.Tensor:
    """Weights (D, C): those in the bundle, or for each class the normalised mean of its texts' unit embeddings."""
    if encode_texts is None:
        texts = (bundle / "descriptions.json").is_file()
        cure = (
            "compute the weights from its texts with --texts"
            if texts
            else "it has no descriptions either, export it with some"
        )
        return load_file(read(bundle, "classifier.safetensors", cure))["weight"]
    texts = json.loads(read(bundle, "descriptions.json", "export descriptions with it").read_text("utf-8"))
    return normalize(torch.stack([normalize(encode_texts(t), dim=-1).mean(0) for t in texts.values()], dim=1), dim=0)


@torch.no_grad()
def classify(arguments: argparse.Namespace) -> None:
    """Print the class of each image, and the accuracy where folders are called as classes are."""
    bundle, images = arguments.bundle, arguments.images
    if not bundle.is_dir():
        state = "is no folder: unpack it" if bundle.exists() else "does not exist"
        raise ValueError(f"{bundle} {state}")
    if not images.exists():
        raise ValueError(f"{images} does not exist")
    names = [
        entry["class_name"]
        for entry in json.loads(
            read(bundle, "classes.json", "`ex2 export` writes a folder with one").read_text("utf-8")
        )
    ]
    paths = sorted(path for path in (images, *images.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise ValueError(f"{images} holds no image that Pillow reads")
    encode_images, encode_texts = load(arguments.model, arguments.pretrained)
    weight = classifier(bundle, encode_texts if arguments.texts else None).cpu()
    made_with = json.loads(read(bundle, "manifest.json", "export it again").read_text("utf-8"))["classifier"]
    if not arguments.texts and made_with:
        print(f"The weights were made with {made_with['vlm']}.", file=sys.stderr)

    correct, unknown = [], 0
    for path in paths:
        try:
            picture = on_white(path)
        except Exception as error:  # decoders raise what they like for damaged files
            print(f"{path}: {error}", file=sys.stderr)
            continue
        image = normalize(encode_images([picture]), dim=-1).cpu()
        if image.shape[1] != weight.shape[0]:
            raise ValueError(
                f"--model {arguments.model} has {image.shape[1]} dimensions, the weights {weight.shape[0]}: use --texts"
            )
        guess = names[int((image @ weight).argmax())]
        print(path, guess, sep="\t")
        label = path.parent.name.replace("_", " ")
        if label in names:
            correct.append(label == guess)
        else:
            unknown += 1
    if correct:
        rest = f" ({unknown} more lie in folders that are called like no class)" if unknown else ""
        print(f"accuracy: {sum(correct)} of {len(correct)}{rest}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", required=True, help="open_clip model, local-dir:DIR, or pictogram")
    parser.add_argument("--pretrained", help="its pretrained tag or file")
    parser.add_argument("--texts", action="store_true", help="compute the weights from descriptions.json")
    arguments = parser.parse_args()
    try:
        classify(arguments)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parser.error(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
