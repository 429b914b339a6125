"""Build the heads of the local judge from its labelled sentences, evaluate them on held-out ones, and write docs/judge.md.

    python -m tools.build_judge [minilm] [mpnet]

Training has two parts: plain sentences of nine domains, and clauses in the styles of class descriptions (noun phrases, relative
clauses, list tails, captions, advice, scenes, textures, photo prompts). Choices (layers, masking of the name, strength of the
regularisation) were made by predicting domains from others; the held-out sentences choose nothing. `quality.json` keeps what
was measured, for reports and for the page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ex2.analysis.agreement import Agreement, agreement, format_agreement
from ex2.analysis.judges.encoders import MINILM, MPNET
from ex2.analysis.judges.local import ASSETS, LocalJudge, SentenceFeatures, by_rule, masked
from ex2.analysis.judging import QUALITY
from ex2.base.files import to_json, write_atomically
from ex2.texts.categories import ALL_TAGS, CATEGORIES, TAGS, Judgement, Passage, of_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "judge.md"
PENALTY = 0.05  # of the squared weights, on standardised features
FOLDS = 4
ENCODERS = {MINILM.spec: "minilm", MPNET.spec: "mpnet"}
TAG_PENALTY = 0.05


def read_sentences(path: Path) -> list[dict[str, Any]]:
    """Labelled sentences: domain, class_name, text, category, tags."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def fit(features: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Logistic regression on standardised features, folded back onto plain ones: weight (F, K) and bias (K,).

    Args:
        features: (N, F).
        targets: (N, K) of 0 and 1: one-hot rows give softmax regression, any others K separate ones.
        penalty: Weight of the squared weights in the loss.
    """
    mean, spread = features.mean(dim=0), features.std(dim=0) + 1e-6
    standard = (features - mean) / spread
    weight = torch.zeros(features.shape[1], targets.shape[1], requires_grad=True)
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    exclusive = bool((targets.sum(dim=1) == 1).all())
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = standard @ weight + bias
        if exclusive:
            fit_loss = -(logits.log_softmax(dim=1) * targets).sum(dim=1).mean()
        else:
            fit_loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets) * targets.shape[1]
        total = fit_loss + penalty * weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    plain = weight.detach() / spread.unsqueeze(1)
    return plain, bias.detach() - mean @ plain


def across_domains(features: Tensor, targets: Tensor, domains: list[str], penalty: float = PENALTY) -> Tensor:
    """Logits (N, K) of each sentence from a head that saw no sentence of its domain; domains go in `FOLDS` groups."""
    names = sorted(set(domains))
    fold = {name: i % FOLDS for i, name in enumerate(names)}
    logits = torch.empty_like(targets)
    for i in range(min(FOLDS, len(names))):
        own = torch.tensor([fold[name] == i for name in domains])
        weight, bias = fit(features[~own], targets[~own], penalty)
        logits[own] = features[own] @ weight + bias
    return logits


def temperature(logits: Tensor, targets: Tensor) -> float:
    """The divisor of the logits at which they are most likely (Guo et al. 2017, arXiv:1706.04599)."""
    candidates = torch.linspace(0.2, 3.0, 141)
    losses = [-((logits / t).log_softmax(dim=1) * targets).sum(dim=1).mean() for t in candidates]
    return float(candidates[int(torch.stack(losses).argmin())])


def build(
    sentences: list[dict[str, Any]], real: list[dict[str, Any]], encode: SentenceFeatures
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The head's weights, and what the predictions across domains say: accuracy and temperature.

    Args:
        sentences: Plain ones, with tags.
        real: Clauses in the styles of real descriptions, without tags.
        encode: Of the encoder that the head is for.
    """
    rows = sentences + real
    features = encode([masked(row["text"], row["class_name"]) for row in rows])
    targets = torch.tensor([[float(row["category"] == name) for name in CATEGORIES] for row in rows])
    tags = torch.tensor([[float(tag in row["tags"]) for tag in ALL_TAGS] for row in sentences])
    logits = across_domains(features, targets, [row["domain"] for row in rows])
    # Calibrated for clauses like those in descriptions, of which plain sentences are the easy half.
    half = calibration_rows(rows, len(sentences))
    scale = temperature(logits[half], targets[half])
    weight, bias = fit(features, targets, PENALTY)
    tag_weight, tag_bias = fit(features[: len(sentences)], tags, TAG_PENALTY)
    head = {"weight": weight / scale, "bias": bias / scale, "tag_weight": tag_weight, "tag_bias": tag_bias}
    right = logits.argmax(dim=1) == targets.argmax(dim=1)
    facts = {
        "accuracy_plain": right[: len(sentences)].float().mean().item(),
        "accuracy_real": right[len(sentences) :].float().mean().item(),
        "temperature": scale,
    }
    return {name: value.half().contiguous() for name, value in head.items()}, facts


def calibration_rows(rows: list[dict[str, Any]], plain: int) -> list[int]:
    """The rows that the temperature is fitted to: all real ones and every eighth plain one, without those that a rule decides."""
    chosen = [*range(0, plain, 8), *range(plain, len(rows))]
    return [i for i in chosen if by_rule(rows[i]["text"], rows[i]["class_name"]) is None]


def tag_scores(given: list[tuple[str, ...]], true: list[list[str]]) -> dict[str, float]:
    """F1 of each attribute tag."""
    scores = {}
    for tag in ALL_TAGS:
        both = sum(tag in g and tag in t for g, t in zip(given, true, strict=True))
        either = sum((tag in g) + (tag in t) for g, t in zip(given, true, strict=True))
        scores[tag] = 2 * both / either if either else 0.0
    return scores


def evaluate(judge: LocalJudge, rows: list[dict[str, Any]]) -> tuple[list[Judgement], Agreement]:
    """The judge's answers to labelled texts, and how well they agree with the labels."""
    passages = [Passage.of(row["class_name"], row["text"]) for row in rows]
    judged = [of_text(clauses) for clauses in judge.judge(passages, progress=False)]
    result = agreement(
        [row["category"] for row in rows],
        [j.category for j in judged],
        [row["class_name"] for row in rows],
        probabilities=[j.probability for j in judged],
        best=[j.best for j in judged],
    )
    return judged, result


def measure(judge: LocalJudge) -> dict[str, Any]:
    """What the judge makes of each held-out set."""
    found = {}
    for name in ("heldout", "heldout_real", "heldout_generated"):
        rows = read_sentences(ASSETS / f"{name}.jsonl")
        judged, result = evaluate(judge, rows)
        visual = [
            np.mean([label == "visual" for label in own])
            for own in ([j.category for j in judged], [r["category"] for r in rows])
        ]
        found[name] = {
            **result.as_dict(),
            "either": float(
                np.mean([j.best in (row["category"], row.get("also")) for row, j in zip(rows, judged, strict=True)])
            ),
            "visual_judged": float(visual[0]),
            "visual_labelled": float(visual[1]),
            "text": format_agreement(result),
        }
        if name == "heldout":
            found["tags"] = tag_scores([j.tags for j in judged], [row["tags"] for row in rows])
    return found


def main() -> None:
    train, real = read_sentences(ASSETS / "train.jsonl"), read_sentences(ASSETS / "train_real.jsonl")
    quality = json.loads(QUALITY.read_text(encoding="utf-8")) if QUALITY.is_file() else {}
    wanted = sys.argv[1:] or ["minilm", "mpnet"]
    for encoder in (MINILM, MPNET):
        if ENCODERS[encoder.spec] not in wanted:
            continue
        encode = SentenceFeatures(encoder=encoder)
        head, facts = build(train, real, encode)
        write_atomically(ASSETS / encoder.head, safetensors.torch.save(head))
        judge = LocalJudge(encode, {name: value.float() for name, value in head.items()})
        quality[judge.name] = {**facts, **measure(judge)}
        print(judge.name, facts)
        for name in ("heldout", "heldout_real", "heldout_generated"):
            print(f"\n{name}\n{quality[judge.name][name]['text']}")
    write_atomically(QUALITY, to_json(quality))
    write_atomically(PAGE, page(quality, len(train), len(real)).encode())


def page(quality: dict[str, Any], plain: int, real: int) -> str:
    """docs/judge.md."""
    template = Path(__file__).with_name("judge_page.md").read_text(encoding="utf-8")
    sections = []
    for name, facts in quality.items():
        sets = (
            (
                "heldout",
                "Plain held-out sentences, written independently of the training sentences, from the definitions alone.",
            ),
            (
                "heldout_real",
                "Held-out clauses in the styles of real descriptions, of other classes, written for this project.",
            ),
            (
                "heldout_generated",
                "Clauses of SmolLM2-135M, many of them false, senseless or cut off; one reader's labels.",
            ),
        )
        sections.append(f"### {name}\n")
        sections.append(
            f"Predicting domains from others: accuracy {facts['accuracy_plain']:.3f} on plain sentences, "
            f"{facts['accuracy_real']:.3f} on clauses in real styles. Temperature {facts['temperature']:.2f}.\n"
        )
        for key, about in sets:
            own = facts[key]
            sections.append(
                f"{about} The first choice is the label in {own['forced_accuracy']:.0%}, or a second label that would do in "
                f"{own['either']:.0%}; judged visual {own['visual_judged']:.1%}, labelled visual {own['visual_labelled']:.1%}.\n"
            )
            sections.append(f"```text\n{own['text']}\n```\n")
        tags = "\n".join(
            f"- {category}: " + ", ".join(f"{tag} {facts['tags'][tag]:.2f}" for tag in own)
            for category, own in TAGS.items()
        )
        sections.append(f"Attribute tags, F1 on the plain held-out sentences:\n\n{tags}\n")
    return (
        template.replace("{plain}", str(plain))
        .replace("{real}", str(real))
        .replace("{sections}", "\n".join(sections).rstrip())
    )


if __name__ == "__main__":
    main()
