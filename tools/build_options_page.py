"""Write docs/options.md from the dataclasses of the training options.

    python -m tools.build_options_page

EX2's own options and those of its PPO are described by their help texts; options that TRL and transformers define are
listed by name and default where a config that comes with EX2 sets them, and described by those libraries.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ex2.base.files import write_atomically
from ex2.base.ranges import RANGES
from ex2.options.ex2_options import EX2Config
from ex2.options.policy_options import PolicyConfig
from ex2.rl.ppo_config import PPOConfig

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "options.md"
_OF_THE_MACHINE = {"bf16", "dtype", "use_cpu"}  # their defaults are what the machine can do

_HEAD = """# Training options

Made by `python -m tools.build_options_page` from the code. Options are flat YAML, or `--NAME VALUE` behind `ex2 train`,
`ex2 study` and the training scripts, where `-` does for `_`. `ex2 train --help_options` prints all, also those of TRL and
transformers that are rarely needed. What excludes each other, and numbers out of range, are refused in one line.
"""


def page() -> str:
    """The page as Markdown."""
    own, ppo, policy = (dataclasses.fields(config) for config in (EX2Config, PPOConfig, PolicyConfig))
    of_ppo = [field for field in ppo if field.name in PPOConfig.__annotations__]
    described = {field.name for field in (*own, *of_ppo)}
    named = _set_by_configs() - described
    theirs = [field for field in (*policy, *ppo) if field.name in named]
    return "\n".join(
        (
            _HEAD,
            "## Images, rewards, prompts, reports\n\nEX2's own; the same for PPO, GRPO and RLOO.\n",
            _table(own, described=True),
            "## PPO\n\nFor GRPO and RLOO see TRL.\n",
            _table(of_ppo, described=True),
            "## Policy and trainer\n\nTRL's and transformers' options that the configs of EX2 set, with their defaults before\n"
            "any config; described in TRL's reference of ModelConfig, GRPOConfig and RLOOConfig.\n",
            _table(theirs, described=False),
        )
    )


def _set_by_configs() -> set[str]:
    """Names of all options in configs/."""
    names: set[str] = set()
    for path in (ROOT / "configs").rglob("*.yaml"):
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
        names |= {*options, *(name for part in ("ppo", "grpo", "rloo") for name in options.get(part) or {})}
    return names


def _table(fields: Iterable[dataclasses.Field[Any]], *, described: bool) -> str:
    """Rows of name, default, range of a number, and what it does."""
    head = ("option", "default", "range", *(("what it does",) if described else ()))
    rows = [head, ["---"] * len(head)]
    for field in fields:
        low, high = RANGES.get(field.name, (None, None))
        limits = "" if low is None else f"{low:g} and up" if high is None or high >= 1e3 else f"{low:g} to {high:g}"
        text = re.sub(r"(?<!`)\|", "\\|", str(field.metadata.get("help", "")))
        choices = field.metadata.get("choices")
        if described and choices and not all(str(choice) in text for choice in choices):
            text += f" One of {', '.join(map(str, choices))}."
        rows.append((f"`{field.name}`", _default(field), limits, *((text,) if described else ())))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.name in _OF_THE_MACHINE:
        return "by machine"
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
    value = getattr(value, "value", value)  # of an enumeration
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    write_atomically(PAGE, page().encode())
