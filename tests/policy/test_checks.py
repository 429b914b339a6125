"""What cannot work with a policy's files is said in one line, before any of its weights are read."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from trl import ModelConfig

from ex2.base.errors import UserError
from ex2.launch import main
from ex2.options.parse import parse_options
from ex2.options.run_options import RunOptions
from ex2.policy import adapters
from ex2.policy import llm as policy
from ex2.policy.asks import Ask
from ex2.policy.checks import inspect_policy
from ex2.policy.sampler import TextGenerator
from ex2.policy.sampler_vllm import VLLMGenerator

Arguments = Callable[..., list[str]]
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ messages[0]['content'] }}"
)


@pytest.fixture
def options(arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunOptions]:
    """Options of a run in which reading a model's weights fails."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)
    return lambda **changes: parse_options("ppo", arguments(tmp_path / "run", **changes))


def _copy_with_template(source: Path, target: Path, template: str) -> Path:
    shutil.copytree(source, target)
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")
    return target


def _adapter(folder: Path, base: Path, **config: Any) -> Path:
    """A saved adapter for the model in `base`, with random weights."""
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(base))
    options = {"target_modules": ["q_proj", "v_proj"], **config}
    made = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=6, init_lora_weights=False, **options)
    )
    made.save_pretrained(folder)
    return _edited(folder, base_model_name_or_path=str(base))


def _edited(adapter: Path, **changes: Any) -> Path:
    """The adapter, with another configuration file."""
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return adapter


# ---------------------------------------------------------------- prompts


def test_base_and_instruct_models(options: Callable[..., RunOptions], tiny_llm: Path, tiny_chat_llm: Path) -> None:
    assert not inspect_policy(options()).chat
    assert not inspect_policy(options(prompt_format="plain", model_name_or_path=tiny_chat_llm)).chat
    found = inspect_policy(options(model_name_or_path=tiny_chat_llm, system_prompt="Be brief."))
    assert (found.path, found.chat, found.tokenizer.padding_side) == (str(tiny_chat_llm), True, "left")


def test_prompts_that_cannot_be_made(
    options: Callable[..., RunOptions], tiny_llm: Path, tiny_chat_llm: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="prompt_format=chat needs a chat template.*prompt_format=plain"):
        inspect_policy(options(prompt_format="chat"))
    for wrong in ({}, {"prompt_format": "plain", "model_name_or_path": tiny_chat_llm}):
        with pytest.raises(UserError, match=r"system_prompt='Be brief.' has no place in plain prompts: leave it out"):
            inspect_policy(options(system_prompt="Be brief.", **wrong))
    assert not inspect_policy(options(system_prompt="")).chat  # how a config's system prompt is taken back
    folder = _copy_with_template(tiny_llm, tmp_path / "strict", NO_SYSTEM)
    assert inspect_policy(options(model_name_or_path=folder)).chat
    with pytest.raises(UserError, match=r"refuses the prompt \(System role not supported\): leave out system_prompt"):
        inspect_policy(options(model_name_or_path=folder, system_prompt="Be brief."))
    folder = _copy_with_template(tiny_llm, tmp_path / "none", "{{ raise_exception('no') }}")
    with pytest.raises(UserError, match=r"refuses the prompt \(no\): use prompt_format=plain"):
        inspect_policy(options(model_name_or_path=folder))


def test_arguments_of_the_chat_template_reach_every_prompt(
    options: Callable[..., RunOptions], tiny_llm: Path, tmp_path: Path
) -> None:
    template = "{% if not mood %}{{ raise_exception('no mood') }}{% endif %}{{ mood }}: {{ messages[-1]['content'] }}"
    folder = _copy_with_template(tiny_llm, tmp_path / "moody", template)
    with pytest.raises(UserError, match=r"refuses the prompt \(no mood\)"):
        inspect_policy(options(model_name_or_path=folder))
    found = inspect_policy(options(model_name_or_path=folder, chat_template_kwargs='{"mood": "glad"}'))
    own: dict[str, Any] = {"tokenizer": found.tokenizer, "chat": found.chat, "system_prompt": None, "max_new_tokens": 4}
    own["chat_template_kwargs"] = {"mood": "glad"}
    ask = Ask(0, "cat", "Describe a {}.")
    for tokens in (
        TextGenerator(model=None, **own)._tokenize([ask])["input_ids"][0],
        VLLMGenerator(engine=None, adapter=None, **own)._tokens(ask),
    ):
        assert found.tokenizer.decode(tokens) == "glad: Describe a cat."


def test_wrong_prompts_are_found_before_the_vlm_is_loaded(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the VLM was loaded")

    monkeypatch.setattr("ex2.run.training.load_vlm", refuse)
    with pytest.raises(SystemExit) as stop:
        main("ppo", arguments(tmp_path / "run", prompt_format="chat"))
    assert stop.value.code == 2
    assert "prompt_format=plain" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- models


def test_models_that_do_not_fit(options: Callable[..., RunOptions], tiny_llm: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lora_target_modules=query names no part of the model.*q_proj"):
        inspect_policy(options(lora_target_modules=["query"]))
    shutil.copytree(tiny_llm, tmp_path / "clip")
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UserError, match="could not be loaded: check that it is a causal language model"):
        inspect_policy(options(model_name_or_path=tmp_path / "clip"))


def test_zero3_does_not_share_out_the_model_of_the_checks(
    options: Callable[..., RunOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = options()
    monkeypatch.setattr("transformers.modeling_utils.is_deepspeed_zero3_enabled", lambda: True)
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # whoever asks for it fails
    assert inspect_policy(run).path


def test_a_quantised_model_is_not_quantised_again(
    options: Callable[..., RunOptions], tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_llm, tmp_path / "quantised")
    file = tmp_path / "quantised" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": {"quant_method": "gptq"}}))
    monkeypatch.setattr("ex2.policy.checks.quantization_config", lambda _: None)
    with pytest.raises(UserError, match="quantised is quantised already: leave load_in_8bit and load_in_4bit out"):
        inspect_policy(options(model_name_or_path=tmp_path / "quantised", load_in_8bit=True))


def test_quantisation_without_a_gpu_is_refused_first(
    options: Callable[..., RunOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="load_in_8bit=true needs"):
        inspect_policy(options(load_in_8bit=True, model_name_or_path="./absent"))


# ---------------------------------------------------------------- adapters


def test_settings_of_an_adapter_are_taken_over(
    options: Callable[..., RunOptions], tiny_llm: Path, tmp_path: Path
) -> None:
    adapter = _adapter(tmp_path / "adapter", tiny_llm, use_rslora=True, lora_dropout=0.25)
    run = options(adapter_name_or_path=adapter, lora_r=16)  # 16 is the default: as if it were not given
    inspect_policy(run)
    assert (run.policy.lora_r, run.policy.lora_alpha, run.policy.lora_dropout) == (2, 6, 0.25)
    assert (run.policy.use_rslora, run.policy.use_dora) == (True, False)
    assert run.as_dict()["lora_target_modules"] == ["q_proj", "v_proj"]
    for name, value in (("lora_r", 4), ("lora_alpha", 5)):
        with pytest.raises(UserError, match=f"{name}={value}, but adapter_name_or_path=.*adapter was made with"):
            inspect_policy(options(adapter_name_or_path=adapter, **{"lora_r": 2, name: value}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modules_to_save": ["lm_head"]}, r"has modules_to_save=\['lm_head'\].*Start from a plain LoRA adapter"),
        ({"trainable_token_indices": [1]}, "has trainable_token_indices"),
        ({"layer_replication": [[0, 1], [0, 2]]}, "has layer_replication"),
        ({"target_parameters": ["experts"]}, "has target_parameters"),
        ({"bias": "all"}, "has bias=all"),
        ({"init_lora_weights": "pissa_niter_4"}, "has init_lora_weights=pissa_niter_4"),
        ({"task_type": "SEQ_CLS"}, "was made for the task SEQ_CLS"),
        ({"peft_type": "NEWEST"}, "could not be loaded"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_adapters_of_other_kinds(
    changes: dict[str, Any], words: str, options: Callable[..., RunOptions], tiny_llm: Path, tmp_path: Path
) -> None:
    adapter = _edited(_adapter(tmp_path / "adapter", tiny_llm), **changes)
    with pytest.raises(UserError, match=words):
        inspect_policy(options(adapter_name_or_path=adapter, lora_r=2))


def test_adapters_that_are_not_lora(options: Callable[..., RunOptions], tmp_path: Path) -> None:
    IA3Config(task_type="CAUSAL_LM", target_modules=["q_proj"], feedforward_modules=[]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is of the kind IA3: EX2 trains LoRA adapters"):
        inspect_policy(options(adapter_name_or_path=tmp_path))


def test_adapters_for_other_models(
    options: Callable[..., RunOptions], tiny_llm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    config = LlamaConfig.from_pretrained(tiny_llm)

    def adapter_of(name: str, **changes: Any) -> Path:
        LlamaConfig(**{**config.to_dict(), **changes}).save_pretrained(other)
        return _adapter(tmp_path / name, other)

    wider = adapter_of("wider", hidden_size=64)
    with pytest.raises(
        UserError, match=r"wider does not fit .*lora_A.weight is of shape \(2, 64\) in the adapter"
    ) as error:
        inspect_policy(options(adapter_name_or_path=wider, lora_r=2))
    assert f"It was made for {other}." in str(error.value)
    # PEFT would leave what is missing as it was made, and say so in a warning at most.
    shorter = adapter_of("shorter", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"layers\.1\.self_attn.* is missing in the adapter and of shape \(2, 32\)"):
        inspect_policy(options(adapter_name_or_path=shorter, lora_r=2))
    longer = adapter_of("longer", num_hidden_layers=3)
    with pytest.raises(UserError, match=r"layers\.2\.self_attn.* in the adapter and missing in the model"):
        inspect_policy(options(adapter_name_or_path=longer, lora_r=2))
    gpt = _edited(_adapter(tmp_path / "gpt", tiny_llm), target_modules=["c_attn"])
    with pytest.raises(UserError, match=r"gpt does not fit .*: Target modules"):
        inspect_policy(options(adapter_name_or_path=gpt, lora_r=2))
    assert capsys.readouterr().err == ""


def test_an_adapter_for_another_model_of_the_same_shape_is_a_warning(
    options: Callable[..., RunOptions], tiny_llm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect_policy(options(adapter_name_or_path=_adapter(tmp_path / "same", tiny_llm), lora_r=2))
    assert capsys.readouterr().err == ""
    adapter = _edited(_adapter(tmp_path / "adapter", tiny_llm), base_model_name_or_path="some/sibling")
    inspect_policy(options(adapter_name_or_path=adapter, lora_r=2))
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"warning: adapter_name_or_path={adapter} was made for some/sibling, and is used with {tiny_llm}."


def test_adapters_without_weights(options: Callable[..., RunOptions], tiny_llm: Path, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "adapter", tiny_llm)
    (adapter / "adapter_model.safetensors").write_bytes(b"half of a file")
    with pytest.raises(UserError, match="its weights could not be read"):
        inspect_policy(options(adapter_name_or_path=adapter, lora_r=2))
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="adapter holds no adapter: adapter_model.safetensors is missing"):
        inspect_policy(options(adapter_name_or_path=adapter, lora_r=2))


def test_weights_of_another_shape_are_an_error_at_loading_too(tiny_llm: Path, tmp_path: Path) -> None:
    """`ex2 generate` loads adapters without these checks."""
    adapter = _adapter(tmp_path / "adapter", tiny_llm)
    LlamaConfig.from_pretrained(tiny_llm, hidden_size=64, intermediate_size=32).save_pretrained(tmp_path / "wider")
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(tmp_path / "wider"))
    with pytest.raises(UserError, match="The adapter .* could not be loaded"):
        adapters.load_adapter(model, str(adapter))
    assert adapters.load_adapter(policy.load_policy(ModelConfig(), str(tiny_llm)), str(adapter)) is not None
