"""The open_clip back end: parity with open_clip itself, trimming of padding, loading, errors."""

from __future__ import annotations

import io
import json
import logging
import shutil
import string
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from open_clip import OPENAI_DATASET_MEAN
from PIL import Image
from safetensors.torch import load_file, save_file

from ex2.base.errors import UserError
from ex2.base.rgb import to_rgb
from ex2.vlm import load_vlm, weight_files
from ex2.vlm import openclip as back_end
from ex2.vlm.openclip import OpenClipVLM, trimmed_text_features
from ex2.vlm.weight_files import options_for_file, split_query

KINDS = ["clip", "custom", "siglip", "coca"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def _load(folder: Path) -> OpenClipVLM:
    vlm = load_vlm(f"open_clip:local-dir:{folder}")
    assert isinstance(vlm, OpenClipVLM)
    return vlm


def test_same_embeddings_as_open_clip_itself(
    open_clip_folders: dict[str, Path], kind: str, images: list[Image.Image], texts: list[str]
) -> None:
    source = f"local-dir:{open_clip_folders[kind]}"
    with back_end.quiet_root_logger():
        model, _, preprocess = open_clip.create_model_and_transforms(source)
        tokens = open_clip.get_tokenizer(source)(texts)
    model.eval()
    with torch.no_grad():
        pixels = torch.stack([preprocess(to_rgb(image)) for image in images])
        text_reference = model.encode_text(tokens, normalize=True)
        image_reference = model.encode_image(pixels, normalize=True)
    vlm = _load(open_clip_folders[kind])
    assert torch.allclose(vlm.encode_texts(texts), text_reference, atol=1e-5)
    assert torch.allclose(vlm.encode_images(images), image_reference, atol=1e-5)


class _Widths:
    """Records how many positions the text transformer computes."""

    def __init__(self, vlm: OpenClipVLM) -> None:
        self.seen: list[int] = []
        tower: Any = getattr(vlm._model, "text", vlm._model)
        tower.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: self.seen.append((args[0] if args else kwargs["input_ids"]).shape[1]),
            with_kwargs=True,
        )


@pytest.mark.parametrize(("kind", "computed"), [("clip", 5), ("custom", 5), ("siglip", 20), ("coca", 21)])
def test_padding_is_computed_only_where_it_counts(open_clip_folders: dict[str, Path], kind: str, computed: int) -> None:
    vlm = _load(open_clip_folders[kind])
    widths = _Widths(vlm)
    vlm.encode_texts(["a tiger", "an orange tiger"])  # start, three words, end
    assert widths.seen == [computed]


def test_trimming_changes_no_embedding(open_clip_folders: dict[str, Path], kind: str, texts: list[str]) -> None:
    vlm = _load(open_clip_folders[kind])
    tokens = vlm._tokenizer(texts[:-1])
    with torch.no_grad():
        trimmed, full = trimmed_text_features(vlm._model, tokens), vlm._model.encode_text(tokens)
    assert torch.allclose(trimmed, full, atol=1e-6)


@pytest.fixture(scope="module", params=["mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"])
def hf_text_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip model whose text tower comes from transformers, with its tokenizer."""
    from safetensors.torch import save_file
    from transformers import BertConfig, BertTokenizer

    folder = tmp_path_factory.mktemp(request.param)
    letters = string.ascii_lowercase
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
    BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}).save_pretrained(folder)
    BertConfig(
        vocab_size=len(tokens), hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    ).save_pretrained(folder)
    text: dict[str, Any] = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_proj_type": None}
    text |= {"hf_pooler_type": request.param, "context_length": 24}
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    state = open_clip.CustomTextCLIP(12, vision, text | {"hf_model_pretrained": False}).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return folder


def test_text_tower_from_transformers(hf_text_folder: Path, texts: list[str]) -> None:
    vlm = _load(hf_text_folder)
    widths = _Widths(vlm)
    short = vlm.encode_texts(["ab cd", "abc", ""])
    assert widths.seen == [6]
    with torch.no_grad():
        full = vlm._model.encode_text(vlm._tokenizer(["ab cd", "abc", ""]), normalize=True)
    assert torch.allclose(short, full, atol=1e-6)
    assert vlm.count_tokens(["ab cd", "", "a" * 30]) == [6, 2, 32]
    assert vlm.max_text_tokens == 24
    assert vlm.fingerprint == _load(hf_text_folder).fingerprint


@pytest.mark.parametrize("hf_text_folder", ["mean_pooler"], indirect=True)
def test_a_text_tower_that_fails_in_open_clip_is_seen_at_load(hf_text_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(hf_text_folder, tmp_path / "max")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_pooler_type"] = "max_pooler"  # whose mask is of the wrong type there
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"fails its self-test .*: it cannot encode texts \(RuntimeError: masked_fill"):
        _load(folder)


def test_clips_mode_counts_the_tokens_that_open_clip_adds(hf_text_folder: Path) -> None:
    vlm = _load(hf_text_folder)
    vlm._tokenizer.tokenizer_mode = "clips"
    assert vlm.count_tokens(["ab cd"]) == [4 + 3]


def test_tokens_of_clips_own_tokenizer(open_clip_folders: dict[str, Path]) -> None:
    vlm = _load(open_clip_folders["clip"])
    assert vlm.max_text_tokens == 20
    assert vlm.count_tokens(["", "a tiger", "word " * 60]) == [2, 4, 62]


@pytest.mark.parametrize(("kind", "bias"), [("clip", 0.0), ("siglip", -10.0)])
def test_logit_scale_and_bias(open_clip_folders: dict[str, Path], kind: str, bias: float) -> None:
    vlm = _load(open_clip_folders[kind])
    assert vlm.logit_scale == pytest.approx(20.085537, rel=1e-6)  # exp(3)
    assert vlm.logit_bias == bias


def test_console_and_root_logger_are_left_alone(open_clip_folders: dict[str, Path]) -> None:
    handlers = list(logging.root.handlers)
    logging.root.handlers.clear()
    _load(open_clip_folders["clip"])
    assert logging.root.handlers == []
    assert logging.root.manager.disable == logging.NOTSET
    logging.root.handlers.extend(handlers)


def _copy(open_clip_folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(open_clip_folders["clip"], tmp_path / "copy"))


def _edit(folder: Path, section: str, **changes: Any) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config[section] |= changes
    path.write_text(json.dumps(config))


def test_fingerprint_follows_preprocessing_activation_and_tokenizer(
    open_clip_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _copy(open_clip_folders, tmp_path)
    original = _load(open_clip_folders["clip"]).fingerprint
    assert _load(folder).fingerprint == original
    _edit(folder, "preprocess_cfg", mean=[0.4, 0.5, 0.5])
    assert _load(folder).fingerprint != original
    _edit(folder, "preprocess_cfg", mean=[0.5, 0.5, 0.5])
    assert _load(folder).fingerprint == original
    _edit(folder, "model_cfg", quick_gelu=True)
    assert _load(folder).fingerprint != original
    _edit(folder, "model_cfg", quick_gelu=False)
    vlm = _load(folder)
    monkeypatch.setitem(vlm._tokenizer.encoder, "tiger</w>", 7)
    assert vlm.fingerprint != original


def test_folder_errors(open_clip_folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder '.*/absent': check the path"):
        load_vlm(f"open_clip:local-dir:{tmp_path}/absent")
    folder = _copy(open_clip_folders, tmp_path)
    spec = f"open_clip:local-dir:{folder}"
    weights = (folder / "open_clip_model.safetensors").read_bytes()
    (folder / "open_clip_model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(UserError, match="could not be loaded: "):
        load_vlm(spec)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no weights: add `open_clip_model.safetensors`"):
        load_vlm(spec)
    (folder / "open_clip_model.safetensors").write_bytes(weights)
    _edit(folder, "model_cfg", embed_dim=13)
    with pytest.raises(UserError, match=r"could not be loaded: 'text_projection' has the shape \(16, 12\) in the file"):
        load_vlm(spec)
    _edit(folder, "model_cfg", embed_dim=12, text_cfg={"hf_tokenizer_name": "some/tokenizer"})
    with pytest.raises(UserError, match=r"has no `tokenizer.json`: save the tokenizer there"):
        load_vlm(spec)
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(UserError, match="is no open_clip configuration: JSONDecodeError"):
        load_vlm(spec)
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is no open_clip configuration: KeyError\('model_cfg'\)"):
        load_vlm(spec)
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(UserError, match=r"has no `open_clip_config.json`: save the model there with open_clip"):
        load_vlm(spec)


def test_incomplete_weights_are_no_random_weights(open_clip_folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = _copy(open_clip_folders, tmp_path)
    weights = load_file(folder / "open_clip_model.safetensors")
    del weights["ln_final.weight"]
    save_file(weights, folder / "open_clip_model.safetensors")
    with pytest.raises(UserError, match=r"could not be loaded: 1 weight is missing, 'ln_final\.weight' first"):
        load_vlm(f"open_clip:local-dir:{folder}")


def test_unknown_model_and_tag_name_the_nearest() -> None:
    with pytest.raises(UserError, match="open_clip has no model 'ViT-B-33'; nearest: ViT-B-32"):
        load_vlm("open_clip:ViT-B-33/openai")
    with pytest.raises(UserError, match="'opnai' is no pretrained tag of open_clip's 'ViT-B-32'; nearest: openai"):
        load_vlm("open_clip:ViT-B-32/opnai")
    with pytest.raises(
        UserError, match=r"open_clip's 'ViT-B-32' needs a pretrained tag: .*`open_clip:ViT-B-32/openai`"
    ):
        load_vlm("open_clip:ViT-B-32")
    with pytest.raises(UserError, match="open_clip has no pretrained tags for 'mt5-base-ViT-B-32': give a weight file"):
        load_vlm("open_clip:mt5-base-ViT-B-32/x")


def test_quick_gelu_follows_the_weights() -> None:
    """open_clip 3 warns and computes the wrong activation; here the weights decide."""
    assert back_end._needs_quick_gelu("ViT-B-32", "openai", "spec") is True
    assert back_end._needs_quick_gelu("ViT-B-32-quickgelu", "openai", "spec") is True
    assert back_end._needs_quick_gelu("ViT-B-32", "laion2b_s34b_b79k", "spec") is False
    assert back_end._needs_quick_gelu("ViT-B-32", "weights.pt", "spec") is False


def test_quick_gelu_model_with_plain_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: {"hf_hub": "a/b/"})
    with pytest.raises(UserError, match="trained without QuickGELU: use `open_clip:ViT-B-32/laion2b`"):
        back_end._needs_quick_gelu("ViT-B-32-quickgelu", "laion2b", "spec")


def test_model_name_with_slash_and_weights_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_end, "require_repository", lambda *_: False)
    assert back_end._known_model("ViT-B/32/openai", "spec") == ("ViT-B-32", "openai")
    weights = tmp_path / "weights.pt"
    weights.touch()
    assert back_end._known_model(f"ViT-B-32/{weights}", "spec") == ("ViT-B-32", str(weights))


TINY: dict[str, Any] = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of `tiny`, which is then a built-in model, as is `tiny-quickgelu`."""
    folder = tmp_path_factory.mktemp("configs")
    for name, more in (("tiny", {}), ("tiny-quickgelu", {"quick_gelu": True})):
        (folder / f"{name}.json").write_text(json.dumps(TINY | more))
    open_clip.add_model_config(folder)
    return _weights()


def _weights(**parts: dict[str, Any]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = open_clip.CLIP(**(TINY | {name: TINY[name] | changes for name, changes in parts.items()}))
    return {name: value.contiguous() for name, value in model.state_dict().items()}


def test_built_in_model_with_weights_from_a_file(
    tiny: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tiny, tmp_path / "weights.pt")
    spec = f"open_clip:tiny/{tmp_path}/weights.pt"
    with pytest.raises(UserError, match=rf"^vlm '{spec}': {tmp_path}/weights\.pt is a pickle"):
        load_vlm(spec)
    vlm = load_vlm(spec, allow_pickle_formats=True)
    assert (vlm.dim, vlm.max_text_tokens) == (12, 77)
    save_file(tiny, tmp_path / "weights.safetensors")
    assert load_vlm(f"open_clip:tiny/{tmp_path}/weights.safetensors").fingerprint == vlm.fingerprint
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_vlm("open_clip:tiny/~/weights.safetensors").fingerprint == vlm.fingerprint
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in tiny.items()}}, tmp_path / "t.pt")
    assert load_vlm(f"open_clip:tiny/{tmp_path}/t.pt", allow_pickle_formats=True).fingerprint == vlm.fingerprint
    (tmp_path / "weights.pt").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="could not be loaded: it is no file of weights"):
        load_vlm(spec, allow_pickle_formats=True)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "vision_cfg",
            {"image_size": 32},
            r"images of another size \(visual.positional_embedding: 17 positions, here 5\)",
        ),
        (
            "text_cfg",
            {"context_length": 32},
            r"texts of another length \(positional_embedding: 32 positions, here 77\)",
        ),
        (
            "text_cfg",
            {"layers": 2},
            "12 weights are unknown to the model, 'transformer.resblocks.1.attn.in_proj_bias' first",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_of_another_model_are_refused(
    tiny: dict[str, torch.Tensor], tmp_path: Path, part: str, changes: dict[str, Any], message: str, suffix: str
) -> None:
    """open_clip stretches the positions of another image size or context length until they fit, and says nothing."""
    file, weights = tmp_path / f"w{suffix}", _weights(**{part: changes})
    _ = save_file(weights, file) if suffix == ".safetensors" else torch.save({"state_dict": weights}, file)
    with pytest.raises(UserError, match=message):
        load_vlm(f"open_clip:tiny/{file}", allow_pickle_formats=True)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda w: {"model": w}, "the weights lie under 'model', save that alone"),
        (lambda w: {f"model.{k}": v for k, v in w.items()}, "their names begin with 'model.', save them without it"),
        (lambda w: {"text_model.x": torch.zeros(1)}, "these are names of transformers, use `hf:FOLDER`"),
        (lambda w: {k: v for k, v in w.items() if "visual" not in k}, "20 weights are missing, 'visual.class_embedding'"),
        (lambda w: {"state_dict": w, "lr": np.float64(1)}, r"holds more than weights \(numpy.*scalar\): save the weights"),
        (lambda w: [1, 2], "it is no file of weights by their names"),
        (lambda w: w | {"token_embedding.weight": w["token_embedding.weight"].index_fill(0, torch.tensor([9]), torch.nan)},
         "the weight 'token_embedding.weight' is not finite: it is damaged"),
    ],
)  # fmt: skip
def test_what_a_file_holds_instead_of_weights_is_one_line(
    tiny: dict[str, torch.Tensor], tmp_path: Path, wrap: Any, message: str
) -> None:
    torch.save(wrap(tiny), tmp_path / "w.pt")
    with pytest.raises(UserError, match=message) as caught:
        load_vlm(f"open_clip:tiny/{tmp_path}/w.pt", allow_pickle_formats=True)
    assert len(str(caught.value)) < 400
    assert "weights_only" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # torch's tracer has many
def test_a_torchscript_archive_names_the_cure(tiny: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """OpenAI's weights come as such."""
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "ViT.pt")
    with pytest.raises(UserError, match=r"it is a TorchScript archive, as OpenAI publishes its weights: save the"):
        load_vlm(f"open_clip:tiny/{tmp_path}/ViT.pt?pretrained_cfg=openai", allow_pickle_formats=True)


def test_files_that_are_not_there_are_said_not_to_be(tiny: dict[str, torch.Tensor], tmp_path: Path) -> None:
    for model in ("tiny", "ViT-B-32"):
        with pytest.raises(UserError, match=rf"there is no file '{tmp_path}/w.pt': check the path"):
            load_vlm(f"open_clip:{model}/{tmp_path}/w.pt")
    with pytest.raises(UserError, match=rf"is a folder: name a file in it, or `open_clip:local-dir:{tmp_path}`"):
        load_vlm(f"open_clip:tiny/{tmp_path}")
    with pytest.raises(UserError, match=r"\?quickgelu= is for weights in a file, a tag says it itself: leave it out"):
        load_vlm("open_clip:ViT-B-32/openai?quickgelu=false")


def test_a_folder_that_leaves_something_open_is_said(
    open_clip_folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _copy(open_clip_folders, tmp_path)
    _load(folder)
    assert not caplog.messages
    _edit(folder, "preprocess_cfg", mean=[0.5] * 3)
    config = json.loads((folder / "open_clip_config.json").read_text())
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config["model_cfg"]}))
    shutil.copy(folder / "open_clip_model.safetensors", folder / "epoch_1.safetensors")
    (folder / "open_clip_model.safetensors").rename(folder / "epoch_2.safetensors")
    _load(folder)
    assert "says nothing of the preprocessing" in caplog.text
    assert "of several files with weights, epoch_1.safetensors is taken, not epoch_2.safetensors" in caplog.text


def test_weights_of_a_folder_in_a_pickle_are_refused(open_clip_folders: dict[str, Path], tmp_path: Path) -> None:
    """Also beside safetensors, where open_clip would take the pickle."""
    folder = _copy(open_clip_folders, tmp_path)
    spec = f"open_clip:local-dir:{folder}"
    torch.save(load_file(folder / "open_clip_model.safetensors"), folder / "open_clip_pytorch_model.bin")
    load_vlm(spec)
    (folder / "open_clip_model.safetensors").rename(folder / "model.safetensors")
    with pytest.raises(UserError, match="open_clip_pytorch_model.bin is a pickle"):
        load_vlm(spec)
    load_vlm(spec, allow_pickle_formats=True)


@pytest.mark.parametrize("error", [RemoteEntryNotFoundError, LocalEntryNotFoundError])
def test_weights_on_the_hub_are_fetched_as_safetensors_or_refused(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(*file: str) -> str:
        asked.append(file)
        if "pickled" in file[0]:
            raise error(
                "not there",
                **(
                    {"response": httpx.Response(404, request=httpx.Request("GET", "https://x.org"))}
                    if error is RemoteEntryNotFoundError
                    else {}
                ),
            )
        return "a path"

    monkeypatch.setattr(back_end, "hf_hub_download", fetch)
    back_end._check_hub_weights("a/safe", "open_clip_pytorch_model.bin", "spec", False)
    back_end._check_hub_weights("a/safe", "w.pth", "spec", False)
    assert asked == [("a/safe", "open_clip_model.safetensors"), ("a/safe", "w.safetensors")]
    with pytest.raises(UserError, match=r"vlm 'spec': a/pickled/w\.pth is a pickle"):
        back_end._check_hub_weights("a/pickled", "w.pth", "spec", False)
    back_end._check_hub_weights("a/pickled", "w.pth", "spec", True)
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"url": "https://x.org/w.pt"})
    with pytest.raises(UserError, match=r"vlm 'spec': https://x\.org/w\.pt is a pickle"):
        back_end._check_tag_weights("ViT-B-32", "file", "spec", False)


def test_code_of_a_text_tower_is_not_run(
    open_clip_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """open_clip leaves open whether it may run: transformers would ask, and standard input says yes."""
    (tmp_path / "tower").mkdir()
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tmp_path / "tower" / "config.json").write_text(json.dumps(config))
    (tmp_path / "tower" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    folder = _copy(open_clip_folders, tmp_path)
    _edit(folder, "model_cfg", text_cfg={"hf_model_name": str(tmp_path / "tower")})
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    with pytest.raises(UserError, match="could not be loaded"):
        load_vlm(f"open_clip:local-dir:{folder}")
    assert not (tmp_path / "ran").exists()
    assert "[y/N]" not in capsys.readouterr().out


def file_options(folder: Path, model: str, **said: str) -> dict[str, Any]:
    (folder / "weights.pt").write_bytes(b"weights")
    return options_for_file(model, folder / "weights.pt", said, "spec")


@pytest.mark.parametrize(
    ("model", "mean", "resize", "gelu"),
    [
        ("MobileCLIP-S1", (0.0, 0.0, 0.0), "shortest", False),
        ("ViT-B-16-SigLIP", (0.5, 0.5, 0.5), "squash", False),
        ("ViT-L-14-CLIPA", (0.485, 0.456, 0.406), "squash", False),
        ("RN50", OPENAI_DATASET_MEAN, "shortest", True),
    ],
)
def test_a_file_takes_what_all_published_weights_of_its_model_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model: str, mean: tuple[float, ...], resize: str, gelu: bool
) -> None:
    options = file_options(tmp_path, model)
    assert (tuple(options["image_mean"]), options["image_resize_mode"]) == (mean, resize)
    assert options["force_quick_gelu"] is gelu
    assert not caplog.messages


def test_what_a_file_leaves_open_is_said_and_can_be_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert file_options(tmp_path, "ViT-L-14")["force_quick_gelu"] is False
    assert "published weights of ViT-L-14 differ in preprocessing and QuickGELU: taken are OpenAI's" in caplog.text
    assert "?pretrained_cfg=" in caplog.text
    caplog.clear()
    for tag in ("openai", "dfn2b", "metaclip_400m"):
        assert file_options(tmp_path, "ViT-L-14", pretrained_cfg=tag)["force_quick_gelu"] is True
    assert file_options(tmp_path, "ViT-B-32", quickgelu="true")["force_quick_gelu"] is True
    assert file_options(tmp_path, "ViT-B-32", quickgelu="false")["force_quick_gelu"] is False
    assert not caplog.messages


def test_a_file_is_known_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    openai = open_clip.get_pretrained_cfg("ViT-B-32", "openai")["url"].split("/")[-2]
    monkeypatch.setattr(weight_files, "sha256", lambda path: openai)
    assert file_options(tmp_path, "ViT-B-32")["force_quick_gelu"] is True
    monkeypatch.setattr(weight_files, "sha256", lambda path: "d867053b" + "0" * 56)  # laion400m_e31
    assert file_options(tmp_path, "ViT-B-32")["force_quick_gelu"] is True
    assert not caplog.messages


def test_quickgelu_in_the_models_name_settles_that_alone(
    tiny: dict[str, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert file_options(tmp_path, "ViT-H-14-quickgelu")["force_quick_gelu"] is True
    assert "published weights of ViT-H-14-quickgelu differ in preprocessing: taken are OpenAI's" in caplog.text
    assert "?quickgelu" not in caplog.text
    with pytest.raises(UserError, match="tiny-quickgelu has QuickGELU: for weights without, use tiny$"):
        file_options(tmp_path, "tiny-quickgelu", quickgelu="false")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"pretraind_cfg": "openai"}, "unknown option 'pretraind_cfg': there are pretrained_cfg and quickgelu"),
        ({"quickgelu": "yes"}, "quickgelu=yes is neither true nor false"),
        ({"pretrained_cfg": ""}, "pretrained_cfg= is no tag of ViT-B-32: there are openai, "),
        ({"pretrained_cfg": "laion"}, "pretrained_cfg=laion is no tag of ViT-B-32: there are openai, "),
    ],
)
def test_options_of_a_file_that_are_refused(tmp_path: Path, said: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        file_options(tmp_path, "ViT-B-32", **said)


def test_the_query_of_a_file() -> None:
    assert split_query("ViT-B-32/a?b.pt") == ("ViT-B-32/a?b.pt", {})
    said = {"pretrained_cfg": "openai", "quickgelu": "true"}
    assert split_query("ViT-B-32/w.pt?pretrained_cfg=openai&quickgelu=true") == ("ViT-B-32/w.pt", said)
