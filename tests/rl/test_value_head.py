"""The value head listens to the policy's forward pass and changes nothing in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import Tensor
from transformers import LlamaForCausalLM

from ex2.rl.value_head import ValueHead, attach_value_head

T = 3  # completion tokens


@pytest.fixture
def policy(words_model: Callable[[], LlamaForCausalLM]) -> Any:
    """The tiny model with a LoRA adapter that is not a zero map."""
    torch.manual_seed(1)
    return get_peft_model(words_model(), LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False))


@pytest.fixture
def input_ids() -> Tensor:
    return torch.tensor([[2, 3, 4, 5, 6, 7, 8], [0, 0, 9, 2, 3, 4, 5]])


def states(hidden: Tensor) -> Tensor:
    """Those before each of the last T tokens."""
    return hidden[:, -T - 1 : -1]


def with_weights(head: ValueHead) -> ValueHead:
    torch.manual_seed(2)
    torch.nn.init.normal_(head.linear.weight)
    torch.nn.init.constant_(head.linear.bias, 0.5)
    return head


def test_starts_at_zero(policy: Any, input_ids: Tensor) -> None:
    head = attach_value_head(policy)
    with head.listening(states):
        policy(input_ids)
    assert head.take_values().tolist() == [[0.0] * T] * 2


def test_logits_of_the_completion_are_the_same_with_and_without(policy: Any, input_ids: Tensor) -> None:
    mask = (input_ids != 0).long()
    expected = policy(input_ids, attention_mask=mask).logits
    assert expected.shape == (2, 7, 10)
    head = with_weights(attach_value_head(policy))
    with head.listening(states):
        heard = policy(input_ids, attention_mask=mask).logits
    assert heard.shape == (2, T, 10)  # the LM head scored the completion only
    torch.testing.assert_close(heard, expected[:, -T - 1 : -1], atol=1e-6, rtol=1e-6)
    assert torch.equal(policy(input_ids, attention_mask=mask).logits, expected)  # outside the context: as before


def test_values_are_those_of_the_states_before_each_token(policy: Any, input_ids: Tensor) -> None:
    hidden = policy(input_ids, output_hidden_states=True).hidden_states[-1]  # after the final norm, (2, 7, 32)
    head = with_weights(attach_value_head(policy))
    with head.listening(states):
        policy(input_ids)
    values = head.take_values()
    assert values.shape == (2, T)
    assert values.dtype == torch.float32
    # Completion tokens are at positions 4, 5, 6, so the states before them are at 3, 4, 5.
    expected = hidden[:, 3:6] @ head.linear.weight[0] + 0.5
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)


def test_weights_may_be_held_in_bfloat16(policy: Any, input_ids: Tensor) -> None:
    """As DeepSpeed and FSDP hold them with bf16; the value they start from stays exact."""
    head = with_weights(attach_value_head(policy))
    head.start = 20.3
    with head.listening(states):
        policy(input_ids)
    expected = head.take_values()
    head.bfloat16()
    with head.listening(states):
        policy(input_ids)
    values = head.take_values()
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected, atol=0.1, rtol=0)
    torch.nn.init.zeros_(head.linear.weight)
    torch.nn.init.zeros_(head.linear.bias)
    with head.listening(states):
        policy(input_ids)
    assert head.take_values().unique().tolist() == pytest.approx([20.3])


def test_values_are_taken_once(policy: Any, input_ids: Tensor) -> None:
    head = attach_value_head(policy)
    policy(input_ids)  # not listening: nothing is heard
    with pytest.raises(AssertionError, match="no forward pass was heard"):
        head.take_values()
    with head.listening(states):
        policy(input_ids)
    head.take_values()
    with pytest.raises(AssertionError, match="no forward pass was heard"):
        head.take_values()


def test_stops_listening_after_an_error(policy: Any, input_ids: Tensor) -> None:
    head = attach_value_head(policy)
    with pytest.raises(RuntimeError, match="interrupted"), head.listening(states):
        raise RuntimeError("interrupted")
    assert policy(input_ids).logits.shape == (2, 7, 10)


def test_generation_is_unaffected(policy: Any) -> None:
    prompt = torch.tensor([[2, 3, 4]])
    mask = torch.ones_like(prompt)
    before = policy.generate(input_ids=prompt, attention_mask=mask, max_new_tokens=8, do_sample=False)
    with_weights(attach_value_head(policy))
    after = policy.generate(input_ids=prompt, attention_mask=mask, max_new_tokens=8, do_sample=False)
    assert torch.equal(before, after)


@pytest.mark.parametrize("detach", [False, True])
def test_detach_keeps_the_value_loss_from_the_adapter(policy: Any, input_ids: Tensor, detach: bool) -> None:
    head = with_weights(attach_value_head(policy, detach=detach))
    with head.listening(states):
        policy(input_ids)
    head.take_values().square().sum().backward()
    assert head.linear.weight.grad is not None
    assert head.linear.weight.grad.abs().sum() > 0
    reached = {name for name, p in policy.named_parameters() if "lora_" in name and p.grad is not None and p.grad.any()}
    lora = {name for name, _ in policy.named_parameters() if "lora_" in name}
    assert reached == (set() if detach else lora)


def test_trains_with_the_adapter_and_without_the_base(policy: Any) -> None:
    attach_value_head(policy)
    trainable = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert {name for name in trainable if "lora_" not in name} == {
        "base_model.model.value_head.linear.weight",
        "base_model.model.value_head.linear.bias",
    }


def test_works_without_lora(words_model: Callable[[], LlamaForCausalLM], input_ids: Tensor) -> None:
    model = words_model()
    head = attach_value_head(model)
    assert model.value_head is head
    with head.listening(states):
        model(input_ids)
    assert head.take_values().shape == (2, T)


def test_is_not_part_of_the_saved_adapter(policy: Any, tmp_path: Path) -> None:
    attach_value_head(policy)
    policy.save_pretrained(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", framework="pt") as file:
        names = list(file.keys())
    assert names
    assert not [name for name in names if "value_head" in name]


def test_computes_in_float32_for_a_bfloat16_policy(policy: Any, input_ids: Tensor) -> None:
    policy.to(torch.bfloat16)
    head = with_weights(attach_value_head(policy))
    with head.listening(states), torch.autocast("cpu", dtype=torch.bfloat16):
        policy(input_ids)
    values = head.take_values()
    assert head.linear.weight.dtype == torch.float32
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()
