"""Rewards by name, as TRL takes them.

A reward is a plain callable `f(prompts, completions, class_id, **columns) -> list[float]` with a `__name__`, as PPO, GRPO and
RLOO take it. A new one is one function and one line in `SIMILARITY_REWARDS` or `QUALITY_REWARDS`; one that lives outside
EX2 is named `package.module:function`. It sees the VLM where it has the signature of the built-in similarity rewards,
`f(similarities, class_ids, logit_scale) -> Tensor`: readings, scale and zscore apply to it then.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.errors import UserError, did_you_mean
from ex2.rewards.normalization import RewardStats
from ex2.rewards.quality import QUALITY_REWARDS
from ex2.rewards.similarity import SIMILARITY_REWARDS, SimilarityReward, similarity_reward
from ex2.texts.readings import AS_WRITTEN, Reading

if TYPE_CHECKING:
    from ex2.scoring.scorer import TextScorer

RewardFunction = Callable[..., list[float]]


def list_rewards() -> list[tuple[str, str]]:
    """Name and one-line description of every built-in reward."""
    named = {**SIMILARITY_REWARDS, **QUALITY_REWARDS}
    return [(name, (function.__doc__ or "").strip().splitlines()[0]) for name, function in named.items()]


def check_rewards(names: Sequence[str], normalization: str = "scale") -> None:
    """See whether rewards can be built, before anything is loaded.

    Raises:
        UserError: No name, a name given twice, one that is neither built in nor an importable `module:function`, or zscore
            with another number of similarity rewards than one.
    """
    if not names:
        raise UserError("reward_funcs is empty: name at least one reward, for example cosine.")
    known = [*SIMILARITY_REWARDS, *QUALITY_REWARDS]
    for name in names:
        if name not in known and ":" not in name:
            hint = did_you_mean(name, known)
            raise UserError(
                f"reward_funcs={name} is not a reward.{hint} Built in: {', '.join(known)}; your own: package.module:function."
            )
        if name not in known and not all(part.isidentifier() for part in name.replace(":", ".", 1).split(".")):
            raise UserError(f"reward_funcs={name} is not of the form package.module:function.")
    for name in names:
        if ":" in name:
            _import_reward(name)
    if normalization == "zscore" and not similarity_rewards(names):
        raise UserError(
            "reward_normalization=zscore standardises similarity rewards, but reward_funcs has none: name one of "
            f"{', '.join(SIMILARITY_REWARDS)}."
        )
    repeated = {name for name in names if list(names).count(name) > 1}
    if repeated:
        raise UserError(f"reward_funcs names {', '.join(sorted(repeated))} more than once.")


def similarity_rewards(names: Sequence[str]) -> dict[str, SimilarityReward]:
    """Those of the rewards called `names` that see the VLM, built in or the user's own."""
    found = {}
    for name in names:
        if name in SIMILARITY_REWARDS:
            found[name] = SIMILARITY_REWARDS[name]
        elif ":" in name and "similarities" in inspect.signature(own := _import_reward(name)).parameters:
            found[name] = own
    return found


def build_rewards(
    names: Sequence[str],
    scorer: TextScorer,
    *,
    scale: float = 100.0,
    stats: Mapping[str, RewardStats] | None = None,
    reading: Reading = AS_WRITTEN,
) -> list[RewardFunction]:
    """The reward functions called `names`, in that order.

    Args:
        scorer: Encodes each batch of texts once for all rewards of a step.
        scale: Multiplier of every similarity reward.
        stats: With statistics of the untrained policy for each similarity reward (zscore), these are standardised instead of
            scaled.
        reading: What the VLM reads of the descriptions.
    """
    check_rewards(names)
    similarity = similarity_rewards(names)
    functions: list[RewardFunction] = []
    for name in names:
        if name in similarity:
            own = None if stats is None else stats[name]
            functions.append(similarity_reward(similarity[name], scorer, scale=scale, stats=own, reading=reading))
        else:
            functions.append(QUALITY_REWARDS[name] if name in QUALITY_REWARDS else _import_reward(name))
    return functions


def _import_reward(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a script in train/ would look for modules there, not where the user is
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"reward_funcs={name} could not be imported: {error}.") from error
    if not callable(function) or not hasattr(function, "__name__"):
        raise UserError(f"reward_funcs={name} is not a function: TRL needs a plain callable with a __name__.")
    return function
