"""Rewards by name, and the same callables in each of the three trainers."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, RLOOConfig

from ex2.base.errors import UserError
from ex2.rewards import RewardStats, build_rewards, check_rewards, list_rewards
from ex2.rewards.build import similarity_rewards
from ex2.rl.ppo_config import PPOConfig
from ex2.run.trainers import TRAINERS
from ex2.scoring import TextScorer
from ex2.scoring.bank import ImageBank
from ex2.texts.readings import NAMELESS
from ex2.vlm import VLM

BUILT_IN = [
    "cosine",
    "centered",
    "margin",
    "log_softmax",
    "pair_margin",
    "no_repetition",
    "whole_sentence",
    "says_something",
    "names_once",
]


@pytest.fixture(scope="module")
def scorer(pictogram_vlm: VLM, pictogram_bank: ImageBank) -> TextScorer:
    return TextScorer(pictogram_vlm, pictogram_bank)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module on the path with a reward, something that is none, and one that does not import."""
    (tmp_path / "own_rewards.py").write_text(
        "def shortness(completions, **columns):\n    return [-float(len(c)) for c in completions]\nnumber = 3\n"
        "class Callable:\n    def __call__(self):\n        return []\nnameless = Callable()\n"
    )
    (tmp_path / "broken_rewards.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_rewards"
    for name in ("own_rewards", "broken_rewards"):
        sys.modules.pop(name, None)


def test_list_rewards_says_what_each_one_is() -> None:
    rewards = dict(list_rewards())
    assert list(rewards) == BUILT_IN
    assert rewards["cosine"] == "Mean cosine to the images of the class (the EX2 paper's reward)."
    assert all(line.endswith(".") and "\n" not in line for line in rewards.values())


def test_rewards_come_in_the_given_order(scorer: TextScorer, own_module: str) -> None:
    names = ["whole_sentence", "margin", "own_rewards:shortness", "cosine"]
    rewards = build_rewards(names, scorer, scale=10.0)
    assert [reward.__name__ for reward in rewards] == ["whole_sentence", "margin", "shortness", "cosine"]
    values = [reward(prompts=["?"], completions=["a red cat."], class_id=[6]) for reward in rewards]
    assert values[0] == [1.0]
    assert values[2] == [-10.0]
    assert values[3] == [pytest.approx(10 * scorer.cosine(["a red cat."], [6]).item(), abs=1e-5)]


def test_scale_is_100_unless_given(scorer: TextScorer) -> None:
    (reward,) = build_rewards(["cosine"], scorer)
    raw = scorer.cosine(["a cat"], [6]).item()
    assert reward(prompts=["?"], completions=["a cat"], class_id=[6]) == [pytest.approx(100 * raw, abs=1e-4)]


def test_statistics_reach_similarity_rewards_only(scorer: TextScorer) -> None:
    stats = {"cosine": RewardStats(mean=(0.0,) * len(scorer.bank.class_names), std=0.5)}
    similarity, quality = build_rewards(["cosine", "no_repetition"], scorer, scale=100.0, stats=stats)
    raw = scorer.cosine(["a a a"], [6]).item()
    assert similarity(prompts=["?"], completions=["a a a"], class_id=[6]) == [pytest.approx(raw / 0.5, abs=1e-5)]
    assert quality(prompts=["?"], completions=["a a a"], class_id=[6]) == [0.5]


def test_rewards_of_one_step_encode_each_text_once(scorer: TextScorer) -> None:
    rewards = build_rewards(["cosine", "centered", "margin", "log_softmax"], scorer)
    before = scorer.texts_encoded
    for reward in rewards:
        reward(prompts=["?"] * 3, completions=["one", "two", "one"], class_id=[0, 1, 2])
    assert scorer.texts_encoded - before == 2


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError) as error:
        check_rewards(["cosin"])
    assert str(error.value) == (
        "reward_funcs=cosin is not a reward. Did you mean cosine? Built in: cosine, centered, margin, log_softmax, "
        "pair_margin, no_repetition, whole_sentence, says_something, names_once; your own: package.module:function."
    )
    with pytest.raises(UserError, match=r"^reward_funcs=zzz is not a reward\. Built in: cosine,"):
        check_rewards(["zzz"])


def test_own_rewards_are_found_where_the_user_is(
    scorer: TextScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reward_of_mine.py").write_text(
        "def short(completions, **columns):\n    return [1.0 for _ in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    (reward,) = build_rewards(["reward_of_mine:short"], scorer)
    assert reward(completions=["a", "b"]) == [1.0, 1.0]


def test_refuses_none_and_repeated() -> None:
    with pytest.raises(UserError, match=r"^reward_funcs is empty: name at least one reward, for example cosine\.$"):
        check_rewards([])
    with pytest.raises(UserError, match=r"^reward_funcs names cosine more than once\.$"):
        check_rewards(["cosine", "margin", "cosine"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("broken_rewards:f", "No module named 'a_module_that_is_not_there'"),
        ("own_rewards:longness", "module 'own_rewards' has no attribute 'longness'"),
    ],
)
def test_failed_import_says_why(scorer: TextScorer, own_module: str, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^reward_funcs={name} could not be imported: .*({reason})"):
        build_rewards([name], scorer)


@pytest.mark.parametrize("name", ["own_rewards:", ":shortness", ".own_rewards:shortness", "own rewards:f", "a:b:c"])
def test_refuses_what_names_no_function(name: str) -> None:
    with pytest.raises(UserError, match=rf"^reward_funcs={name} is not of the form package\.module:function\.$"):
        check_rewards([name])


@pytest.mark.parametrize("name", ["own_rewards:number", "own_rewards:nameless"])
def test_refuses_what_is_no_function(scorer: TextScorer, own_module: str, name: str) -> None:
    with pytest.raises(
        UserError, match=rf"^reward_funcs={name} is not a function: TRL needs a plain callable with a __name"
    ):
        build_rewards([name], scorer)


# ---------------------------------------------------------------- rewards of one's own that see the VLM


@pytest.fixture
def own_similarity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module with a reward of the built-in signature, whose body is given; returns the reward's spec."""

    def write(body: str) -> str:
        (tmp_path / "own_similarity.py").write_text(
            f"def nearest(similarities, class_ids, logit_scale):\n    return {body}\n"
        )
        sys.modules.pop("own_similarity", None)
        return "own_similarity:nearest"

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    sys.modules.pop("own_similarity", None)


def test_own_similarity_rewards_get_what_built_in_ones_get(
    scorer: TextScorer, own_similarity: Callable[[str], str]
) -> None:
    spec = own_similarity("logit_scale * similarities.gather(1, class_ids.unsqueeze(1)).squeeze(1)")
    assert list(similarity_rewards(["cosine", spec, "no_repetition"])) == ["cosine", spec]
    (own,) = build_rewards([spec], scorer, scale=10.0)
    assert own.__name__ == "nearest"
    call = {"prompts": ["?"], "completions": ["A cat is red."], "class_id": [6]}
    raw = scorer.vlm.logit_scale * scorer.cosine(["A cat is red."], [6]).item()
    assert own(**call) == [pytest.approx(10 * raw, rel=1e-5)]
    (nameless,) = build_rewards([spec], scorer, scale=10.0, reading=NAMELESS)
    raw = scorer.vlm.logit_scale * scorer.cosine(["it is red."], [6]).item()
    assert nameless(**call) == [pytest.approx(10 * raw, rel=1e-5)]
    stats = {spec: RewardStats(mean=(1.0,) * len(scorer.bank.class_names), std=2.0)}
    (standardised,) = build_rewards([spec], scorer, stats=stats, reading=NAMELESS)
    assert standardised(**call) == [pytest.approx((raw - 1) / 2, rel=1e-5)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("similarities", r"gave a tensor of shape \(1, 54\) for 1 texts: return a tensor of shape \(1,\)"),
        ("similarities.mean()", r"gave a tensor of shape \(\) for 1 texts"),
        ("[0.5]", "gave list for 1 texts"),
        ("similarities[:, 0] * float('nan')", "gave nan for a text: return finite numbers"),
        ("similarities[:, 0] / 0", "gave -?inf for a text: return finite numbers"),
    ],
)
def test_own_similarity_rewards_of_another_shape_or_not_finite_are_refused(
    scorer: TextScorer, own_similarity: Callable[[str], str], body: str, message: str
) -> None:
    (own,) = build_rewards([own_similarity(body)], scorer)
    with pytest.raises(UserError, match=f"^reward_funcs=nearest: {message}"):
        own(prompts=["?"], completions=["a cat"], class_id=[6])


def test_zscore_needs_a_similarity_reward_and_takes_any_number(own_similarity: Callable[[str], str]) -> None:
    check_rewards(["cosine", "margin", own_similarity("similarities[:, 0]")], "zscore")
    with pytest.raises(UserError, match="^reward_normalization=zscore standardises .* but reward_funcs has none"):
        check_rewards(["no_repetition"], "zscore")


# ---------------------------------------------------------------- one set of rewards, three trainers

NAMES = ["centered", "no_repetition"]
CONFIGS = {"ppo": PPOConfig, "grpo": GRPOConfig, "rloo": RLOOConfig}


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_same_rewards_run_in_every_trainer(
    algorithm: str, chat: bool, scorer: TextScorer, tiny_llm: Path, tiny_chat_llm: Path, tmp_path: Path
) -> None:
    questions = [f"Describe a {name}." for name in scorer.bank.class_names[:4]]
    rows = [
        {
            "prompt": [{"role": "user", "content": question}] if chat else question + "\n\n",
            "question": question,
            "class_id": i,
            "class_name": scorer.bank.class_names[i],
        }
        for i, question in enumerate(questions)
    ]
    trainer = TRAINERS[algorithm](
        model=str(tiny_chat_llm if chat else tiny_llm),
        reward_funcs=build_rewards(NAMES, scorer),
        args=CONFIGS[algorithm](
            output_dir=str(tmp_path), per_device_train_batch_size=4, gradient_accumulation_steps=1, num_generations=2,
            num_iterations=1, max_completion_length=6, max_steps=2, learning_rate=1e-2, reward_weights=[1.0, 0.5],
            logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, bf16=False,
            gradient_checkpointing=False, dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4),
    )  # fmt: skip
    trainer.scorer, trainer.samples_path = scorer, tmp_path / "samples.jsonl"
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    assert any((p != before[name]).any() for name, p in trainer.model.named_parameters() if name in before)

    logs = [row for row in trainer.state.log_history if "reward" in row]
    assert len(logs) == 2
    samples = [json.loads(line) for line in trainer.samples_path.read_text(encoding="utf-8").splitlines()]
    assert len(samples) == 8
    for step, row in enumerate(logs):
        texts = [sample["text"] for sample in samples[4 * step : 4 * step + 4]]
        class_ids = [sample["class_id"] for sample in samples[4 * step : 4 * step + 4]]
        expected = {
            reward.__name__: sum(reward(prompts=[""] * 4, completions=texts, class_id=class_ids)) / 4
            for reward in build_rewards(NAMES, scorer)
        }
        for name, mean in expected.items():
            assert row[f"rewards/{name}/mean"] == pytest.approx(mean, abs=1e-3)
        assert row["reward"] == pytest.approx(expected["centered"] + 0.5 * expected["no_repetition"], abs=1e-3)
        assert math.isfinite(row["monitors/heldout_cosine"])
