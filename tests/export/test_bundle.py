"""Bundles: what they promise of their files, whole or not at all, and the merged model."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from ex2.base.errors import UserError
from ex2.base.hub import licence_of
from ex2.base.shown import portable
from ex2.export import Bundle, merge, read_bundle, write_bundle
from ex2.export.bundle import weights_in
from ex2.export.card import bundle_card
from ex2.export.merge import merge_adapter
from ex2.policy.adapters import load_adapter
from ex2.policy.llm import load_base, load_tokenizer, resolve_model
from ex2.run.card import hub_id, language_of
from tests.families import make


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    write_bundle(bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


# ---------------------------------------------------------------- there and back


def test_reading_and_writing_again_gives_the_same_bytes(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    back = read_bundle(folder)
    assert (back.class_names, back.questions, back.records) == (bundle.class_names, bundle.questions, bundle.records)
    assert back.pairs == bundle.pairs
    assert back.facts == bundle.facts
    write_bundle(back, tmp_path / "elsewhere" / "again")
    assert contents(tmp_path / "elsewhere" / "again") == contents(folder)
    assert set(contents(folder)) == {
        "README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "classes.json", "classifier.safetensors",
        "descriptions.json", "descriptions.jsonl", "descriptions.parquet", "descriptions_by_dataset.json", "manifest.json",
        "pairs.classes.json", "pairs.json", "questions.json",
    }  # fmt: skip


def test_a_bundle_may_do_without_descriptions(bundle: Bundle, tmp_path: Path) -> None:
    bare = replace(bundle, records=(), pairs=None, classifier=None)
    write_bundle(bare, tmp_path / "bare")
    assert not any(name.startswith(("descriptions", "pairs", "classifier")) for name in contents(tmp_path / "bare"))
    assert read_bundle(tmp_path / "bare").class_names == bundle.class_names


def test_contents_that_do_not_fit_together_are_refused(bundle: Bundle) -> None:
    with pytest.raises(UserError, match=r"no description of пингвин \(class 2\): add some .*--no_descriptions"):
        replace(bundle, records=tuple(record for record in bundle.records if record.class_id != 2))
    with pytest.raises(UserError, match=r"class 0 \(owl\) is no class of the bundle"):
        replace(bundle, records=(replace(bundle.records[0], class_name="owl"), *bundle.records))
    with pytest.raises(UserError, match="pairs: their class names are not those of the bundle, in the same order"):
        replace(bundle, class_names=("a", "b", "c", "d"), records=())
    assert bundle.classifier is not None
    with pytest.raises(UserError, match=r"classifier: expected 4 columns, found the shape \(5, 3\)"):
        replace(bundle, classifier=bundle.classifier[:, :3])


# ---------------------------------------------------------------- checksums


def test_every_file_is_vouched_for(folder: Path) -> None:
    for name in contents(folder).keys() - {"manifest.json"}:
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(UserError, match=f"{name} has changed since it was exported: copy or export"):
            read_bundle(folder)
        (folder / name).unlink()
        with pytest.raises(UserError, match=f"{name} is missing: copy or export"):
            read_bundle(folder)
        (folder / name).write_bytes(before)
    (folder / "questions.json").rename(folder / ".hidden")
    (folder / "questions.json").symlink_to("nowhere")
    with pytest.raises(UserError, match="questions.json is missing"):
        read_bundle(folder)
    (folder / ".hidden").rename(folder / "questions.json")
    (folder / "adapter" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"adapter/notes.txt is no part of the bundle: move it elsewhere"):
        read_bundle(folder)


def test_what_git_and_the_hub_hide_in_a_folder_does_not_count(folder: Path) -> None:
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "x.lock").touch()
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    read_bundle(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "adapter/../../secret", "C:/x", "a\\..\\b", ""])
def test_a_manifest_cannot_lead_out_of_the_folder(folder: Path, name: str) -> None:
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: "0" * 64}))
    with pytest.raises(UserError, match="which lies outside the bundle: do not use this bundle"):
        read_bundle(folder)


def test_what_is_no_bundle_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds no bundle: manifest.json is missing. `ex2 export RUN --out DIR` writes"
    ):
        read_bundle(tmp_path)
    edit_manifest(folder, lambda manifest: manifest.update(format_version=2))
    with pytest.raises(UserError, match="has format version 2, this EX2 reads 1"):
        read_bundle(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="is not the manifest of an EX2 bundle"):
        read_bundle(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json: broken JSON"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("generation", "bf16", "yes", r"generation\.bf16 cannot be 'yes'\. Export the bundle again\."),
        ("generation", "dtype", None, r"generation\.dtype cannot be None\. Export the bundle again\."),
        ("generation", "max_new_tokens", 0, r"generation\.max_new_tokens=0 is out of range: it must be at least 1\."),
        ("generation", "temperature", 1e308, r"generation\.temperature=1e\+308 is out of range: .*"),
        ("base_model", "name", ["x"], r"base_model\.name cannot be \['x'\]\. Export the bundle again\."),
    ],
)
def test_facts_that_no_export_writes(folder: Path, part: str, name: str, value: object, message: str) -> None:
    edit_manifest(folder, lambda manifest: manifest[part].update({name: value}))
    with pytest.raises(UserError, match=rf"^{folder / 'manifest.json'} is damaged: {message}$"):
        read_bundle(folder)
    edit_manifest(folder, lambda manifest: manifest.update({part: value}))
    with pytest.raises(UserError, match=rf"^{folder / 'manifest.json'} is damaged: {part}\..* cannot be None"):
        read_bundle(folder)


# ---------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("occupied", [False, True])
def test_a_full_disk_leaves_nothing_behind(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, occupied: bool
) -> None:
    out = folder if occupied else tmp_path / "new"
    before = contents(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ex2.export.formats.write_classifier", full)  # after most files
    with pytest.raises(UserError, match=r"could not be written, and is as it was before: .*No space left on device"):
        write_bundle(bundle, out, overwrite=True)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_failed_exchange_puts_the_old_bundle_back(
    bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename, calls = contents(folder), __import__("os").rename, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr("os.rename", second_fails)
    with pytest.raises(UserError, match="is as it was before"):
        write_bundle(replace(bundle, pairs=None), folder, overwrite=True)
    assert contents(folder) == before
    assert len(list(folder.parent.iterdir())) == 1


def test_a_kill_in_the_exchange_leaves_the_old_bundle_to_the_next_export(bundle: Bundle, folder: Path) -> None:
    """Of this bundle, not of another one in the same folder."""
    for name in (folder.name, "other"):
        shutil.copytree(folder, folder.with_name(f".ex2-{name}.old"))
    before = contents(folder)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="overwrite"):
        write_bundle(bundle, folder)
    assert contents(folder) == before
    assert folder.with_name(".ex2-other.old").is_dir()


def test_another_bundle_is_replaced_only_on_demand(bundle: Bundle, folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"already holds a bundle: choose another folder, or replace it \(--overwrite\)"
    ):
        write_bundle(bundle, folder)
    (folder / "questions.json").write_text("damaged: may be replaced all the same")
    write_bundle(replace(bundle, pairs=None), folder, overwrite=True)
    assert read_bundle(folder).pairs is None
    assert len(list(folder.parent.iterdir())) == 1


@pytest.mark.parametrize("name", ["thesis.tex", "adapter/thesis.tex", ".git"])
def test_other_files_are_never_deleted(bundle: Bundle, folder: Path, name: str) -> None:
    (folder / name).write_text("years of work")
    with pytest.raises(UserError, match=f"holds {name} beside a bundle: move it elsewhere"):
        write_bundle(bundle, folder, overwrite=True)
    shutil.copy(folder / name, folder.parent)
    (folder.parent / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match="is not empty and holds no bundle: choose another folder"):
        write_bundle(bundle, folder.parent, overwrite=True)
    with pytest.raises(UserError, match="is a file: name a folder"):
        write_bundle(bundle, folder / name, overwrite=True)
    assert (folder / name).read_text() == "years of work"


def test_an_empty_folder_is_free(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_bundle(bundle, tmp_path / "empty")
    read_bundle(tmp_path / "empty")


# ---------------------------------------------------------------- merged model

PROMPTS = ("Describe a puffin.", "What does a very long and striped tiger look like?")


def test_the_merged_model_has_the_logits_of_base_and_adapter(
    tiny_chat_llm: Path, tiny_adapter: Path, bundle: Bundle, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    difference = merge_adapter(str(tiny_chat_llm), tiny_adapter, tmp_path / "merged", PROMPTS)
    assert 0 < difference < 1e-5
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template is not None
    tokens = tokenizer("A puffin is a small bird.", return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(tiny_chat_llm).eval()
    with torch.no_grad():
        without = base(**tokens).logits
        expected = PeftModel.from_pretrained(base, tiny_adapter).eval()(**tokens).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(**tokens).logits
    assert torch.allclose(merged, expected, atol=1e-4, rtol=0)  # in float32
    assert not torch.allclose(merged, without, atol=1e-1, rtol=0)  # the adapter does something
    modes = {path.stat().st_mode for path in (tmp_path / "merged").iterdir()}
    assert len(modes) == 1

    write_bundle(replace(bundle, weights={**bundle.weights, **weights_in(tmp_path)}), tmp_path / "bundle")
    assert "merged/model.safetensors" in contents(tmp_path / "bundle")
    write_bundle(read_bundle(tmp_path / "bundle"), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "bundle")


def test_one_layer_at_a_time_is_in_float64(
    tiny_chat_llm: Path, tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(tiny_chat_llm))
    tokenizer = load_tokenizer(str(tiny_chat_llm))
    tokens = tokenizer(list(PROMPTS), padding=True, return_tensors="pt")
    whole: Any = load_adapter(base, str(tiny_adapter)).double()
    mask = tokens["attention_mask"].bool()
    with torch.no_grad():
        expected = whole.eval()(**tokens).logits[mask]
    whole.merge_and_unload().float().save_pretrained(tmp_path / "at_once")
    largest = max(sum(p.numel() for p in layer.parameters()) for layer in base.model.layers)

    seen: list[int] = []
    logits: list[Tensor] = []
    compute = merge._logits

    def watched(model: Any, tokens: Any, **how: Any) -> Tensor:
        def count(*_: Any) -> None:
            seen.append(sum(p.numel() for p in model.parameters() if p.dtype == torch.float64))

        handles = [module.register_forward_pre_hook(count) for module in model.modules()]
        logits.append(compute(model, tokens, **how))
        for handle in handles:
            handle.remove()
        return logits[-1]

    monkeypatch.setattr(merge, "_logits", watched)
    merge_adapter(str(tiny_chat_llm), tiny_adapter, tmp_path / "merged", PROMPTS)
    assert 0 < max(seen) <= 1.1 * largest  # and the adapter
    assert logits[0].dtype == torch.float64
    torch.testing.assert_close(logits[0], expected, rtol=0, atol=1e-12)
    name = "model.safetensors"
    assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "at_once" / name).read_bytes()


@pytest.mark.slow
def test_the_embedded_policy_merges_within_the_tolerance(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    path = resolve_model(None)
    torch.manual_seed(0)
    get_peft_model(load_base(path), LoraConfig(task_type="CAUSAL_LM", r=4)).save_pretrained(tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    trained = {name: torch.randn_like(value) / 50 if "lora_B" in name else value for name, value in weights.items()}
    save_file(trained, tmp_path / "adapter" / "adapter_model.safetensors")
    assert 0 < merge_adapter(path, tmp_path / "adapter", tmp_path / "merged", PROMPTS) < 1e-4


def test_a_merged_model_that_differs_is_refused(tiny_chat_llm: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--merge: a logit .* differs by 0\.\d+, more than 0.0001: use --merge_dtype"):
        merge_adapter(str(tiny_chat_llm), tiny_adapter, tmp_path / "merged", PROMPTS, dtype="bfloat16")
    difference = merge_adapter(
        str(tiny_chat_llm), tiny_adapter, tmp_path / "merged", PROMPTS, dtype="bfloat16", tolerance=1.0
    )
    assert 1e-4 < difference < 1.0


def test_a_difference_that_is_no_number_is_refused(
    tiny_chat_llm: Path, tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ex2.export.merge._logits", lambda *_, **__: torch.tensor([float("nan")]))
    with pytest.raises(UserError, match="differs by nan"):
        merge_adapter(str(tiny_chat_llm), tiny_adapter, tmp_path / "merged", PROMPTS)


# ---------------------------------------------------------------- card and names


def test_the_card_shows_the_runs_own_results(bundle: Bundle) -> None:
    assert "The run made no report." in bundle_card(bundle.facts, ())
    scores = {"heldout": {"mean": 0.75, "low": 0.5, "high": 1.0}}
    metrics = {"before_after": {}, "pair_accuracy": {"aligned - base": scores}, "last": {}}
    card = bundle_card(bundle.facts | {"metrics": metrics}, [replace(bundle.records[0], text="a|b\nc")])
    assert (
        "| system | held-out pair accuracy [95 % interval] |\n| :- | -: |\n| aligned - base | 0.7500 [0.5000, 1.0000] |"
        in card
    )
    assert "| crane | a\\|b c |" in card
    options = bundle.facts["training"] | {"reward_funcs": ["cosine", "no_repetition"], "pairs": None}
    shown = bundle_card(bundle.facts | {"training": options}, ())
    assert "| reward_funcs | cosine, no\\_repetition |" in shown
    assert "| pairs |" not in shown
    hostile = "![x](http://a.b) <img src=x>\u202e"
    facts = bundle.facts | {
        "name": hostile,
        "base_model": {"name": hostile, "revision": "main", "licence": hostile},
        "vlm": {"name": hostile, "fingerprint": "f" * 64},
        "dataset": {"name": hostile, "classes": 4},
        "training": {"algorithm": "ppo", "reward_funcs": [hostile]},
    }
    safe = bundle_card(facts, [replace(bundle.records[0], class_name=hostile, text=hostile)])
    body = safe.split("---", 2)[2]
    assert body.count(r"\!\[x\](http://a.b) \<img src=x\>\[U+202E\]") == 9
    assert "![" not in body
    assert "Licence of the base model: not known here: see the card of the base model." in card


def test_the_head_of_a_card_is_what_the_hub_reads(bundle: Bundle) -> None:
    scores = {"heldout": {"mean": 0.23456, "low": 0.2, "high": 0.3}}
    facts = bundle.facts | {
        "base_model": {"name": "some/model", "revision": "main", "licence": "apache-2.0"},
        "dataset": {"name": "cifar100", "classes": 100, "hub_id": "uoft-cs/cifar100"},
        "language": "en",
        "metrics": {
            "before_after": {"aligned": scores},
            "nameless": {"aligned": scores},
            "accuracy": {"class name": 0.625},
            "pair_accuracy": {},
            "last": {},
        },
    }
    front = yaml.safe_load(bundle_card(facts, ()).split("---\n")[1])
    assert (front["license"], front["datasets"], front["language"]) == ("apache-2.0", ["uoft-cs/cifar100"], "en")
    assert (front["base_model"], front["pipeline_tag"]) == ("some/model", "text-generation")
    (model,) = front["model-index"]
    assert model["name"] == facts["name"]
    measured = {
        (result["dataset"]["type"], metric["type"], metric["name"]): metric["value"]
        for result in model["results"]
        for metric in result["metrics"]
    }
    assert measured == {
        ("uoft-cs/cifar100", "cosine_similarity", "held-out cosine, as written"): 0.2346,
        ("uoft-cs/cifar100", "cosine_similarity", "held-out cosine, without the class name"): 0.2346,
        ("uoft-cs/cifar100", "accuracy", "held-out top-1, class name"): 0.625,
    }
    assert hub_id("hf:uoft-cs/cifar100?label=fine_label") == "uoft-cs/cifar100"
    assert hub_id("folder:birds") is None
    local = bundle_card(facts | {"base_model": {"name": "my 'llm'", "revision": "main", "licence": None}}, ())
    assert "base_model" not in yaml.safe_load(local.split("---\n")[1])  # the hub refuses what is no repository
    assert (language_of("looks"), language_of("mine.txt")) == ("en", None)


def test_names_travel_without_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert portable("runs/a") == "a"
    assert portable("folder:/data/birds") == "folder:birds"
    assert portable("folder:/data/birds?class_names=/home/me/names.txt&heldout=all") == (
        "folder:birds?class_names=names.txt&heldout=all"
    )
    assert portable("open_clip:local-dir:~/models/clip/") == "open_clip:local-dir:clip"
    assert portable("open_clip:ViT-B-32//data/private/w.pt") == "open_clip:ViT-B-32/w.pt"
    assert portable("folder:/home/me/2026: spring/birds") == "folder:birds"
    assert portable("folder:/home/me/a:b") == "folder:a:b"
    assert portable("folder:/home/me/what?/birds") == "folder:what?/birds"
    assert portable("hf:imagefolder:/home/me/birds") == "hf:imagefolder:birds"
    assert portable("folder:/data/v\udcf6gel") == "folder:v[U+DCF6]gel"  # as Python reads latin-1 from a disk
    for name in (
        "pictogram",
        "hf:openai/clip-vit-base-patch32",
        "open_clip:ViT-B-32/laion2b_s34b_b79k",
        "planted:habitat",
    ):
        assert portable(name) == name


@pytest.mark.filterwarnings(
    "ignore:Model has `tie_word_embeddings=True`", "ignore:Setting `save_embedding_layers`"
)  # by PEFT
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_an_adapter_on_weights_that_are_shared_is_merged_into_one_of_their_two_places(
    target: str, tiny_chat_llm: Path, tmp_path: Path
) -> None:
    """Input and output embeddings of small LLMs are one tensor: what is added to the one must not reach the other."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    shared = tmp_path / "shared"
    shutil.copytree(tiny_chat_llm, shared)
    config = AutoConfig.from_pretrained(tiny_chat_llm, tie_word_embeddings=True)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(shared)
    base = AutoModelForCausalLM.from_pretrained(shared)
    assert base.get_input_embeddings().weight is base.get_output_embeddings().weight
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, target_modules=[target, "q_proj"])
    get_peft_model(base, lora).save_pretrained(tmp_path / "adapter")
    difference = merge_adapter(str(shared), tmp_path / "adapter", tmp_path / "merged", PROMPTS)
    assert difference < 1e-4
    assert AutoConfig.from_pretrained(tmp_path / "merged").tie_word_embeddings is False


@pytest.mark.parametrize(("family", "target"), [("Qwen3-MoE", "q_proj"), ("Mamba", "x_proj")])
def test_models_that_do_not_compute_in_float64_are_merged_too(family: str, target: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(make(family, tmp_path / "base"))
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False, target_modules=[target])
    get_peft_model(base, lora).save_pretrained(tmp_path / "adapter")
    assert merge_adapter(str(tmp_path / "base"), tmp_path / "adapter", tmp_path / "merged", PROMPTS) < 1e-5
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict()
    changed = {name.split(".")[-2] for name, weight in plain.items() if not torch.equal(weight, merged[name])}
    assert changed == {target}


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\nlanguage: en\n---\n# A model\n", "mit"),
        ("---\nlicense: no\n---\n", None),  # in YAML no word but `false`
        ("---\nlicense: [mit, apache-2.0]\n---\n", None),
        ("---\nlanguage: en\n---\n", None),
        ("# No front matter\n---\nlicense: mit\n---\n", None),
        (None, None),
    ],
)
def test_licence_of_a_base_model(tmp_path: Path, card: str | None, licence: str | None) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)) == licence
    assert licence_of("HuggingFaceTB/SmolLM2-135M-Instruct") == "apache-2.0"
    assert licence_of("nobody/has-this") is None
    assert licence_of("/nowhere/at/all") is None


@pytest.mark.parametrize("name", ["merged", "adapter/more"])
def test_a_link_to_a_folder_is_not_followed(folder: Path, name: str) -> None:
    """What lies behind it is in no manifest: hidden files are not listed, and a link is no file."""
    (folder / ".x").mkdir()
    (folder / ".x" / "config.json").write_text("{}")
    (folder / name).symlink_to(folder / ".x")
    with pytest.raises(UserError, match=f"{name} is a link to a folder, for whose files no checksum stands"):
        read_bundle(folder)


def test_files_that_are_links_are_what_their_checksums_say(folder: Path, tmp_path: Path) -> None:
    """The hub's cache is made of links to files."""
    name = folder / "adapter" / "adapter_model.safetensors"
    name.rename(tmp_path / "blob")
    name.symlink_to(tmp_path / "blob")
    read_bundle(folder)
    (tmp_path / "blob").write_bytes(b"other")
    with pytest.raises(UserError, match="has changed since it was exported"):
        read_bundle(folder)


def test_a_link_in_a_circle_is_no_place_for_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"^--out .*loop could not be written, and is as it was before"):
        write_bundle(bundle, tmp_path / "loop")
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_link_beside_a_bundle_is_not_replaced_with_it(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    (folder / "notes").symlink_to(tmp_path)
    with pytest.raises(UserError, match="holds notes beside a bundle"):
        write_bundle(bundle, folder, overwrite=True)
