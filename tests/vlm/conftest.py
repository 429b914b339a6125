"""Small random dual encoders of each architecture, saved to folders as their libraries save real ones."""

from __future__ import annotations

import json
import logging
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

DROPOUT = 0.5  # in every model: eval mode shows


@pytest.fixture(autouse=True)
def quiet_transformers() -> Iterator[None]:
    """Loading tiny models draws progress bars; hide them."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    yield
    transformers_logging.enable_progress_bar()
    logging.disable(logging.NOTSET)


@pytest.fixture
def images() -> list[Image.Image]:
    """Seven different images of several sizes and modes."""
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for index, mode in enumerate(("RGB", "RGBA", "L", "RGB", "P", "RGB", "LA")):
        pixels = torch.randint(0, 256, (20 + 3 * index, 31 - 2 * index, 3), generator=generator, dtype=torch.uint8)
        pictures.append(Image.fromarray(pixels.numpy()).convert(mode))
    return pictures


@pytest.fixture
def texts() -> list[str]:
    """Texts of several lengths, out of order; the last is longer than any of the models reads."""
    return ["a tiger", "", "a big striped cat", "owl", "a bird at night", "tigers are cats", "word " * 60]


@pytest.fixture(scope="session")
def hf_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a tiny random model by family."""
    root = tmp_path_factory.mktemp("hf")
    folders = {}
    for family, build in (("clip", _clip), ("align", _align), ("siglip", _siglip), ("siglip2", _siglip2)):
        torch.manual_seed(0)
        model, processor = build()
        folders[family] = root / family
        model.save_pretrained(folders[family])
        processor.save_pretrained(folders[family])
    return folders


def _transformer(**more: Any) -> dict[str, Any]:
    return {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4} | more


def _clip() -> tuple[Any, Any]:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = string.ascii_lowercase
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    end = vocabulary["<|endoftext|>"]
    config = CLIPConfig(
        text_config=_transformer(
            vocab_size=len(tokens),
            max_position_embeddings=20,
            attention_dropout=DROPOUT,
            eos_token_id=end,
            bos_token_id=end - 1,
            pad_token_id=end,
        ),
        vision_config=_transformer(image_size=16, patch_size=8, attention_dropout=DROPOUT),
        projection_dim=24,
        logit_scale_init_value=3.0,
    )
    size = {"height": 16, "width": 16}
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=20)
    return CLIPModel(config), CLIPProcessor(processor, tokenizer)


def _align() -> tuple[Any, Any]:
    from transformers import AlignConfig, AlignModel, AlignProcessor, BertTokenizer, EfficientNetImageProcessor

    letters = string.ascii_lowercase
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
    config = AlignConfig(
        text_config=_transformer(
            vocab_size=len(tokens), max_position_embeddings=100, hidden_dropout_prob=DROPOUT, pad_token_id=0
        ),
        vision_config={
            "image_size": 16,
            "width_coefficient": 1.0,
            "depth_coefficient": 0.1,
            "hidden_dim": 32,
            "in_channels": [32, 16],
            "out_channels": [16, 32],
            "kernel_sizes": [3, 3],
            "strides": [1, 2],
            "num_block_repeats": [1, 1],
            "expand_ratios": [1, 6],
            "dropout_rate": DROPOUT,
        },
        projection_dim=32,
        temperature_init_value=0.25,
    )
    processor = EfficientNetImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False)
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})
    return AlignModel(config), AlignProcessor(processor, tokenizer)


def _gemma_vocabulary() -> dict[str, int]:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_letters]
    return {token: index for index, token in enumerate(tokens)}


def _ending_in_eos(tokenizer: Any) -> Any:
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer


def _siglip() -> tuple[Any, Any]:
    """As the fixed-resolution checkpoints of SigLIP 2: SigLIP's classes and a tokenizer that keeps upper case."""
    from transformers import GemmaTokenizer, SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    vocabulary = _gemma_vocabulary()
    config = SiglipConfig(
        text_config=_transformer(
            vocab_size=len(vocabulary), max_position_embeddings=20, attention_dropout=DROPOUT, pad_token_id=0
        ),
        vision_config=_transformer(image_size=16, patch_size=8, attention_dropout=DROPOUT),
    )
    model = SiglipModel(config)
    model.logit_scale.data.fill_(2.0)
    model.logit_bias.data.fill_(-10.0)
    tokenizer = GemmaTokenizer(
        vocab=vocabulary, merges=[], padding_side="right", model_input_names=["input_ids"], model_max_length=20
    )
    return model, SiglipProcessor(SiglipImageProcessor(size={"height": 16, "width": 16}), _ending_in_eos(tokenizer))


def _siglip2() -> tuple[Any, Any]:
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model, Siglip2Processor, Siglip2Tokenizer

    vocabulary = _gemma_vocabulary()
    config = Siglip2Config(
        text_config=_transformer(
            vocab_size=len(vocabulary), max_position_embeddings=64, attention_dropout=DROPOUT, pad_token_id=0
        ),
        vision_config=_transformer(num_patches=16, patch_size=16, attention_dropout=DROPOUT),
    )
    tokenizer = Siglip2Tokenizer(
        vocab=vocabulary, merges=[], padding_side="right", model_input_names=["input_ids"], model_max_length=64
    )
    images = Siglip2ImageProcessor()
    return Siglip2Model(config), Siglip2Processor(images, _ending_in_eos(tokenizer))


OPEN_CLIP_TEXT: dict[str, dict[str, Any]] = {
    "clip": {"text_cfg": {}},
    "custom": {"custom_text": True, "text_cfg": {"pool_type": "eos", "eos_id": 49407, "proj_bias": True}},
    "siglip": {
        "custom_text": True,
        "init_logit_bias": -10,
        "text_cfg": {"pool_type": "last", "no_causal_mask": True},
    },
    "coca": {
        "multimodal_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        "text_cfg": {"embed_cls": True, "output_tokens": True},
        "vision_cfg": {
            "output_tokens": True,
            "attentional_pool": True,
            "attn_pooler_queries": 4,
            "attn_pooler_heads": 2,
        },
        "custom_text": True,
    },
}


@pytest.fixture(scope="session")
def open_clip_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of a tiny random open_clip model by kind of text tower."""
    import open_clip

    root = tmp_path_factory.mktemp("open_clip")
    folders = {}
    for kind, special in OPEN_CLIP_TEXT.items():
        torch.manual_seed(0)
        text = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
        vision = {
            "image_size": 16,
            "layers": 2,
            "width": 16,
            "head_width": 8,
            "patch_size": 8,
            "patch_dropout": DROPOUT,
        }
        config = {"embed_dim": 12, "init_logit_scale": 3.0} | special
        config["text_cfg"] = text | special["text_cfg"]
        config["vision_cfg"] = vision | special.get("vision_cfg", {})
        arguments = {key: value for key, value in config.items() if key != "custom_text"}
        kind_class = (
            open_clip.CLIP if kind == "clip" else open_clip.CoCa if kind == "coca" else open_clip.CustomTextCLIP
        )
        folders[kind] = root / kind
        folders[kind].mkdir()
        state = kind_class(**arguments).state_dict()
        if kind == "coca":  # open_clip leaves it as it finds it in memory, and embeds nothing with it
            state["text_decoder.text_projection"].fill_(torch.nan)
        save_file(
            {name: value.contiguous() for name, value in state.items()}, folders[kind] / "open_clip_model.safetensors"
        )
        preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
        (folders[kind] / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
        )
    return folders
