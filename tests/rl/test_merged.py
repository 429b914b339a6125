"""A policy with its adapter merged says what it says, and its base is afterwards what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaForCausalLM

from ex2.rl import merged
from ex2.rl.decoding import Decoder
from ex2.rl.merged import adapter_merged
from tests.rl.conftest import lora

TOKENS = torch.tensor([[2, 3, 4, 5, 6, 7, 8, 9]])


@pytest.fixture
def policy_with(words_model: Callable[[], LlamaForCausalLM]) -> Callable[..., Any]:
    """Makes a policy whose adapter changes what it says, by LoRA's options and the type of the base."""

    def make(dtype: torch.dtype = torch.float32, **options: Any) -> Any:
        torch.manual_seed(2)
        policy = get_peft_model(words_model().to(dtype), lora(init_lora_weights=False, **options)).eval()
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
        return policy

    return make


def said(policy: Any) -> Tensor:
    """Log-probs of every token, (1, T, V)."""
    with torch.no_grad():
        return policy(input_ids=TOKENS).logits.float().log_softmax(-1)


def merged_layers(policy: Any) -> list[str]:
    return [
        name.rpartition(".")[2] for name, layer in policy.named_modules() if isinstance(layer, Linear) and layer.merged
    ]


def test_the_same_is_said_with_the_adapter_merged_and_the_base_is_as_it_was(policy_with: Callable[..., Any]) -> None:
    policy = policy_with()
    before = {name: (parameter, parameter.clone()) for name, parameter in policy.named_parameters()}
    expected = said(policy)
    with adapter_merged(policy):
        assert len(merged_layers(policy)) == 14  # 7 in each of 2 layers
        torch.testing.assert_close(said(policy), expected, rtol=0, atol=1e-5)
    assert merged_layers(policy) == []
    for name, parameter in policy.named_parameters():
        assert parameter is before[name][0], name
        assert torch.equal(parameter, before[name][1]), name
    assert torch.equal(said(policy), expected)


def test_the_base_is_as_it_was_when_something_fails_meanwhile(policy_with: Callable[..., Any]) -> None:
    policy = policy_with()
    expected = said(policy)
    with pytest.raises(KeyboardInterrupt), adapter_merged(policy):
        raise KeyboardInterrupt
    assert torch.equal(said(policy), expected)


def test_a_layer_that_cannot_be_merged_leaves_none_merged(
    policy_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_with()
    expected, count = said(policy), iter(range(99))
    own = Linear.get_delta_weight

    def no_room(layer: Linear, name: str) -> Tensor:
        if next(count) == 3:
            raise RuntimeError("not enough memory")
        return own(layer, name)

    monkeypatch.setattr(Linear, "get_delta_weight", no_room)
    with pytest.raises(RuntimeError, match="not enough memory"), adapter_merged(policy):
        pass
    assert merged_layers(policy) == []
    assert torch.equal(said(policy), expected)


def test_a_base_in_bfloat16_is_as_near_merged_as_bfloat16_is_to_float32(policy_with: Callable[..., Any]) -> None:
    """Rounding the sum of weights and adapter moves log-probs about as far as rounding what is multiplied does."""
    exact = said(policy_with())
    policy = policy_with(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        apart = (said(policy) - exact).abs().mean()
        with adapter_merged(policy):
            together = (said(policy) - exact).abs().mean()
    assert together < 2 * apart
    assert together < 0.05


def test_a_head_tied_to_the_embeddings_leaves_these_alone(policy_with: Callable[..., Any]) -> None:
    policy = policy_with(target_modules=["lm_head", "q_proj"])
    base = policy.get_base_model()
    head: Any = base.lm_head
    head.base_layer.weight = base.model.embed_tokens.weight
    expected = said(policy)
    with adapter_merged(policy):
        assert "lm_head" in merged_layers(policy)
        torch.testing.assert_close(said(policy), expected, rtol=0, atol=1e-5)
    assert head.base_layer.weight is base.model.embed_tokens.weight


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed but the targeted layer")
@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_bias": True}])
def test_layers_that_do_more_than_add_a_product_are_left_alone(
    policy_with: Callable[..., Any], options: dict[str, bool]
) -> None:
    policy = policy_with(**options)
    expected = said(policy)
    with adapter_merged(policy):
        assert merged_layers(policy) == []
        assert torch.equal(said(policy), expected)


def test_dropout_is_not_merged_away(policy_with: Callable[..., Any]) -> None:
    policy = policy_with(lora_dropout=0.5).train()
    with adapter_merged(policy):
        assert merged_layers(policy) == []


def test_large_weights_are_not_copied(policy_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_with()
    adapted = sum(layer.base_layer.weight.nbytes for layer in policy.modules() if isinstance(layer, Linear))
    for most, layers in ((adapted, 14), (adapted - 1, 0)):
        monkeypatch.setattr(merged, "_MOST", most)
        with adapter_merged(policy):
            assert len(merged_layers(policy)) == layers


def test_an_adapter_that_is_off_is_not_merged(policy_with: Callable[..., Any]) -> None:
    policy = policy_with()
    expected = said(policy)
    with policy.disable_adapter(), adapter_merged(policy):
        assert merged_layers(policy) == []
        assert not torch.allclose(said(policy), expected)


def test_texts_are_sampled_merged_and_rows_that_have_ended_are_left_out(
    policy_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_with()
    rows: list[int] = []
    forward: Any = nn.Module.__call__

    def counted(module: Any, *args: Any, **arguments: Any) -> Any:
        if isinstance(module, LlamaForCausalLM):
            rows.append(len(arguments["input_ids"]))
            assert len(merged_layers(policy)) == 14
        return forward(module, *args, **arguments)

    monkeypatch.setattr(nn.Module, "__call__", counted)
    torch.manual_seed(1)
    prompts = torch.tensor([[2, 3]] * 12)
    config = GenerationConfig(
        do_sample=True, top_k=0, top_p=1.0, temperature=2.0, max_new_tokens=8, pad_token_id=0, eos_token_id=1
    )
    texts = Decoder(policy)(prompts, torch.ones_like(prompts), generation_config=config)[:, 2:]
    still = [int(((texts[:, :t] == 1).sum(dim=1) == 0).sum()) for t in range(1, texts.shape[1])]
    assert rows[1:] == still
    assert 0 < still[-1] < 12
