"""Rollouts are sampled in the precision that they are scored in."""

from __future__ import annotations

from typing import Any

from ex2.rl.trl_names import Mixin


class SampledAsScored(Mixin):
    """Mixin for TRL's online trainers: sampling multiplies in bfloat16 or float16 where training does.

    Mixed precision wraps the forward pass of the model that is trained, which `generate` passes by: without this, weights of
    float32 are sampled from in float32, slower, and from another distribution than the one that log-probs are taken of.
    """

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        with self.accelerator.autocast():
            return super()._generate_single_turn(*args, **kwargs)
