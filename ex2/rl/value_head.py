"""A value head that shares the policy's forward pass: one linear layer on the last hidden state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from ex2.rl.shared_prefix import States


class ValueHead(nn.Module):
    """Linear map from the hidden state before a token to the value of that state, in reward units.

    It listens to the policy's backbone through a forward hook, so log-probs and values come from the same forward pass
    and no second copy of any model exists. Within `listening(states)`, the hook also cuts the backbone's output down to
    `states(hidden)`, those before each completion token, so that the LM head scores the completion and not the prompt.

    The weights start at 0: the first values are `start`, which the trainer sets to the mean of the first scores. It is a
    plain number beside the weights because a weight that is set by hand in the middle of training is lost where DeepSpeed
    or FSDP hold the copy that counts.
    """

    start: float = 0.0

    def __init__(self, hidden_size: int, detach: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.detach = detach
        self._states: States | None = None
        self._values: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (B, T, H) to values (B, T), float32.

        Hidden states are scaled to a root mean square of 1, so that a learning rate means the same for every model.
        """
        hidden = hidden.detach() if self.detach else hidden
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            hidden = nn.functional.rms_norm(hidden, hidden.shape[-1:], eps=1e-6)
            # DeepSpeed and FSDP may hold the weights in bfloat16.
            return self.linear(hidden.to(self.linear.weight.dtype)).float().squeeze(-1) + self.start

    @contextmanager
    def listening(self, states: States) -> Iterator[None]:
        """Within this context, the backbone's next forward pass leaves values of `states(hidden)` for `take_values`."""
        self._states = states
        try:
            yield
        finally:
            self._states = None

    def take_values(self) -> Tensor:
        """Values (B, T) of the states before each of the T completion tokens in the last forward pass heard."""
        assert self._values is not None, "no forward pass was heard: call the policy within `listening`"
        values, self._values = self._values, None
        return values

    def _hear(self, module: nn.Module, args: Any, output: BaseModelOutputWithPast) -> BaseModelOutputWithPast:
        if self._states is not None:
            assert output.last_hidden_state is not None
            output.last_hidden_state = self._states(output.last_hidden_state)
            self._values = self(output.last_hidden_state)
        return output


def attach_value_head(policy: PreTrainedModel | PeftModel, detach: bool = False) -> ValueHead:
    """Give a causal language model (with or without LoRA) a value head as sub-module `value_head`.

    As a sub-module it moves, trains and synchronises with the model. It is not part of the adapter that PEFT saves.
    """
    base: Any = policy.get_base_model() if isinstance(policy, PeftModel) else policy
    # What the LM head reads, and not `hidden_size`: some models end narrower (OPT-350m).
    head = ValueHead(base.get_output_embeddings().in_features, detach).to(policy.device)
    base.value_head = head
    base.base_model.register_forward_hook(head._hear)
    return head
