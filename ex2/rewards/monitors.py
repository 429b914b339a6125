"""Monitors: numbers that expose reward hacking while a policy trains. They never enter the reward.

A VLM can be fooled: one "hub" text may score high on many images (arXiv:2604.27674), texts may collapse into one,
repeat words, or imitate the photo pages that CLIP was trained on. A rising reward with a rising hub score, duplicate
rate or boilerplate rate, or without a rising held-out cosine, is not a better description.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from ex2.rewards.quality import distinct_share
from ex2.rewards.similarity import own_similarity
from ex2.scoring.scorer import TextScorer
from ex2.texts.class_names import strip_whole_name
from ex2.texts.collapse import EMPTY_TEXTS, FEW_WORDS, PAIRS_LEFT, RISE, WORDS_LEFT, distinct_2
from ex2.texts.readings import AS_WRITTEN, Reading
from ex2.texts.tautologies import tautology_rate

_BOILERPLATE = re.compile(
    r"""\b(?:
        click|enlarge|download|subscribe|copyright|all\ rights\ reserved|royalty.free|stock\ (?:photo|image|illustration)s?
        |(?:photo|image|picture|illustration|drawing|clip\s?art|icon|emoji|wallpaper)s?\ (?:of|with|shows?|depicts?)
        |shutterstock|getty|for\ sale|free\ shipping|buy\ (?:now|online)|home\ ?page|http|www
        |in\ (?:the|this)\ (?:photo|image|picture|illustration|drawing)
    )\b""",
    re.VERBOSE | re.IGNORECASE,
)


def duplicate_rate(texts: Sequence[str]) -> float:
    """Share of texts that repeat an earlier text of the batch, case ignored: 0 is best."""
    return 1 - len({text.casefold() for text in texts}) / len(texts)


def repetition_rate(texts: Sequence[str]) -> float:
    """Mean share of word pairs that repeat within one text."""
    return sum(1 - distinct_share(text.lower().split()) for text in texts) / len(texts)


def boilerplate_rate(texts: Sequence[str]) -> float:
    """Share of texts that talk like a photo page ("click to enlarge", "image of") instead of about the class."""
    return sum(bool(_BOILERPLATE.search(text)) for text in texts) / len(texts)


def hub_score(similarities: torch.Tensor, class_ids: torch.Tensor) -> float:
    """Mean cosine of texts (N, C) to the classes they do not describe; a hub scores high on them too. 0 for one class."""
    if similarities.shape[1] < 2:
        return 0.0
    own = own_similarity(similarities, class_ids)
    return ((similarities.sum(dim=1) - own) / (similarities.shape[1] - 1)).mean().item()


def name_share(texts: Sequence[str], class_names: Sequence[str]) -> float:
    """Share of N texts that hold the name of their class, whose names are given one by one."""
    return sum(
        strip_whole_name(text, name, "") != " ".join(text.split())
        for text, name in zip(texts, class_names, strict=True)
    ) / len(texts)


def monitor(
    scorer: TextScorer,
    texts: Sequence[str],
    class_ids: Sequence[int],
    other_ids: Sequence[int] | None = None,
    reading: Reading = AS_WRITTEN,
) -> dict[str, float]:
    """Monitors that are means over texts, in their natural units (cosines, shares, words).

    For texts about pairs, `other_ids` says against which class each text is; their margins are monitored besides. So are
    cosines of what the VLM reads, where that is not the text as it is written.
    """
    names = [scorer.bank.class_names[i] for i in class_ids]
    as_read = {
        f"monitors/{split}_as_read": scorer.cosine(texts, class_ids, split, reading).mean().item()
        for split in ("reward", "heldout")
        if not reading.as_written
    }
    ids = torch.tensor(list(class_ids), device=scorer.vlm.device, dtype=torch.long)
    limit = scorer.vlm.max_text_tokens
    margins = {
        f"monitors/{split}_pair_margin": (
            scorer.cosine(texts, class_ids, split) - scorer.cosine(texts, other_ids, split)
        )
        .mean()
        .item()
        for split in ("reward", "heldout")
        if other_ids is not None
    }
    return {
        **margins,
        **as_read,
        "monitors/reward_cosine": scorer.cosine(texts, class_ids).mean().item(),
        "monitors/heldout_cosine": scorer.cosine(texts, class_ids, split="heldout").mean().item(),
        "monitors/hub_score": hub_score(scorer.similarities(texts), ids),
        "monitors/repetition_rate": repetition_rate(texts),
        "monitors/boilerplate_rate": boilerplate_rate(texts),
        "monitors/truncated_share": sum(n > limit for n in scorer.vlm.count_tokens(texts)) / len(texts),
        "monitors/name_share": name_share(texts, names),
        "monitors/tautology_rate": tautology_rate(texts, names),
        "monitors/words": sum(len(text.split()) for text in texts) / len(texts),
    }


def variety(texts: Sequence[str]) -> dict[str, float]:
    """Monitors that compare texts with each other, so that they need all those of a rollout at once."""
    return {"monitors/duplicate_rate": duplicate_rate(texts), "monitors/distinct_2": distinct_2(texts)}


_FIRST, _LAST = 2, 4  # rollouts that are compared: one alone is about a few classes only


def alarms(rollouts: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """What the monitors of a run's rollouts so far warn of, by monitor; nothing before there are six.

    The mean of the last four rollouts is compared with that of the first two:

        words           less than half of it left, and fewer than nine: the policy sheds words
        distinct_2      less than 0.6 of it left: texts become stock phrases
        tautology_rate  above 0.25, and by more than 0.1 above it: texts say nothing but name and kind
        hub_score       rises by more than half of what the cosine to the texts' own class gains: they fit every class better
    """
    if len(rollouts) < _FIRST + _LAST:
        return {}

    def means(name: str) -> tuple[float, float]:
        values = [row.get(f"monitors/{name}", 0.0) for row in rollouts]
        return sum(values[:_FIRST]) / _FIRST, sum(values[-_LAST:]) / _LAST

    found = {}
    first, last = means("words")
    if last < min(WORDS_LEFT * first, FEW_WORDS):
        found["words"] = f"texts have {last:.1f} words, {first:.1f} at first: the policy sheds words"
    first, last = means("distinct_2")
    if last < PAIRS_LEFT * first:
        found["distinct_2"] = (
            f"of the word pairs {last:.0%} are distinct, {first:.0%} at first: texts become stock phrases"
        )
    first, last = means("tautology_rate")
    if last > max(EMPTY_TEXTS, first + RISE):
        found["tautology_rate"] = f"{last:.0%} of the texts say nothing but name and kind: see docs/rewards.md"
    (first, last), (own_first, own_last) = means("hub_score"), means("reward_cosine")
    if own_last - own_first > 0.02 and last - first > 0.5 * (own_last - own_first):
        found["hub_score"] = f"texts fit other classes better too, by {last - first:.3f} of {own_last - own_first:.3f}"
    return found
