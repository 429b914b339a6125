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
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import normalize

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}

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
    """An image as RGB; what is transparent becomes white."""
    image = Image.open(path).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", required=True, help="open_clip model, local-dir:DIR, or pictogram")
    parser.add_argument("--pretrained", help="its pretrained tag or file")
    parser.add_argument("--texts", action="store_true", help="compute the weights from descriptions.json")
    arguments = parser.parse_args()

    encode_images, encode_texts = load(arguments.model, arguments.pretrained)
    names = [entry["class_name"] for entry in json.loads((arguments.bundle / "classes.json").read_text("utf-8"))]
    if arguments.texts:  # for each class the normalised mean of its texts' unit embeddings, as (D, C)
        texts_by_class = json.loads((arguments.bundle / "descriptions.json").read_text("utf-8"))
        means = [normalize(encode_texts(texts), dim=-1).mean(dim=0) for texts in texts_by_class.values()]
        weight = normalize(torch.stack(means, dim=1), dim=0)
    else:
        weight = load_file(arguments.bundle / "classifier.safetensors")["weight"]

    correct = []
    for path in sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in SUFFIXES):
        image = normalize(encode_images([on_white(path)]), dim=-1).cpu()
        guess = names[int((image @ weight.cpu()).argmax())]
        print(path, guess, sep="\t")
        label = path.parent.name.replace("_", " ")
        if label in names:
            correct.append(label == guess)
    if correct:
        print(f"accuracy: {sum(correct)} of {len(correct)}")


if __name__ == "__main__":
    main()
