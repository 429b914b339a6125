"""Names of options that are read from source are those of the dataclasses."""

from __future__ import annotations

from dataclasses import fields

import pytest
from trl import GRPOConfig, RLOOConfig

from ex2.options.ex2_options import EX2Config
from ex2.options.names import option_names
from ex2.options.policy_options import PolicyConfig
from ex2.rl.ppo_config import PPOConfig


@pytest.mark.parametrize(("algorithm", "trainer"), [("ppo", PPOConfig), ("grpo", GRPOConfig), ("rloo", RLOOConfig)])
def test_names_are_those_of_the_dataclasses(algorithm: str, trainer: type) -> None:
    assert option_names(algorithm) == {
        f.name for part in (EX2Config, PolicyConfig, trainer) for f in fields(part) if f.init
    }
