"""Shared fixtures: the embedded VLM with its image bank, tiny language models, and an environment without network."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# Before any test module imports a library that reads these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from tests.warm_python import Warm

if TYPE_CHECKING:
    from ex2.export import Bundle
    from ex2.scoring.bank import ImageBank
    from ex2.vlm import VLM

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

CORPUS = (
    "Describe a puffin. What does a tiger look like? It has orange fur with black stripes and a long tail.",
    "A small bird with a bright beak lives on cliffs by the cold sea. The photo shows an apple on a table.",
    "Which features tell a hammer from an axe? A heavy steel head on a wooden handle. The cat is a round animal.",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: else one process is still busy with one when the others have nothing left to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def session_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, and a cache of its own, which workers of pytest-xdist share, unless the caller names one."""
    torch.set_num_threads(1)
    gc.freeze()  # what collection has imported stays: each run looks for garbage at its end, and passes over it
    patch = pytest.MonkeyPatch()
    if "EX2_CACHE" not in os.environ:
        own = tmp_path_factory.getbasetemp()
        patch.setenv("EX2_CACHE", str((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "ex2_cache"))
    yield
    patch.undo()
    gc.unfreeze()  # else libraries take what is left at the end for a leak


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A program like `sys.executable` that has imported everything: see tests/warm_python.py."""
    warm = Warm(tmp_path_factory.mktemp("bin"))
    yield str(warm.executable)
    warm.close()


@pytest.fixture
def every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs get every state of a progress bar, not one a minute."""
    from ex2.base import progress

    monkeypatch.setattr(progress, "_SECONDS", 0.0)


@pytest.fixture(scope="session")
def pictogram_vlm() -> VLM:
    """The embedded VLM, image tower included: do not release it."""
    from ex2.vlm import load_vlm

    return load_vlm("pictogram")


@pytest.fixture(scope="session")
def pictogram_bank(pictogram_vlm: VLM) -> ImageBank:
    """The image bank of the embedded pictograms with the default split."""
    from ex2.data import load_images
    from ex2.scoring.bank import build_bank

    return build_bank(pictogram_vlm, load_images("pictograms"), progress=False)


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama with a byte-level BPE tokenizer and no chat template."""
    return _save_tiny_llm(tmp_path_factory.mktemp("tiny") / "llm", chat_template=None)


@pytest.fixture(scope="session")
def tiny_chat_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as `tiny_llm` with a chat template."""
    return _save_tiny_llm(tmp_path_factory.mktemp("tiny") / "chat_llm", chat_template=CHAT_TEMPLATE)


def _save_tiny_llm(folder: Path, chat_template: str | None) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    specials = ["<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", pad_token="<pad>", padding_side="left", model_max_length=256
    )
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,  # so that next-token probabilities are not all equal
    )
    model = LlamaForCausalLM(config)
    # Saving draws a progress bar.
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    if shown:
        logging.enable_progress_bar()
    return folder


# ---------------------------------------------------------------- whole runs

CLASSES = ("cat", "ear_of_corn", "eagle", "whale")


@pytest.fixture(scope="session")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `folder:` dataset of four classes with six pictograms each."""
    return small_dataset(tmp_path_factory.mktemp("images"))


def small_dataset(root: Path) -> Path:
    """Write the images of `class_folder` into a folder."""
    from ex2.data.pictograms import PICTOGRAMS

    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for file in sorted((PICTOGRAMS / "images" / name).iterdir())[:6]:
            shutil.copy(file, root / name)
    return root


@pytest.fixture(scope="session")
def arguments(tiny_llm: Path, class_folder: Path) -> Callable[..., list[str]]:
    """Command line of a training run that takes seconds: one rollout is 8 texts and 2 updates."""
    return partial(training_arguments, tiny_llm, class_folder)


def training_arguments(llm: Path, images: Path, output_dir: Path, **overrides: object) -> list[str]:
    """The command line of `arguments`."""
    options: dict[str, object] = {
        "output_dir": output_dir,
        "model_name_or_path": llm,
        "vlm": "pictogram",
        "dataset": f"folder:{images}",
        "reward_funcs": ["cosine", "no_repetition"],
        "reward_weights": [1.0, 0.5],
        "lora_r": 4,
        "num_generations": 2,
        "per_device_train_batch_size": 4,
        "steps_per_generation": 2,
        "gradient_accumulation_steps": 1,
        "num_iterations": 1,
        "max_steps": 4,
        "max_completion_length": 8,
        "learning_rate": 1e-2,
        "save_steps": 2,
        "eval_samples": 2,
        "best_of_n": 2,
        "use_cpu": True,
        "bf16": False,  # by default it depends on the processor
        "seed": 1,
        **overrides,
    }
    line: list[str] = []
    for name, value in options.items():
        if value is not None:
            line += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return line


@pytest.fixture(scope="session")
def trained_run(arguments: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished PPO run of two rollouts; not to be changed."""
    from ex2.launch import main

    folder = tmp_path_factory.mktemp("runs") / "ppo"
    main("ppo", arguments(folder))
    return folder


# ---------------------------------------------------------------- bundles


@pytest.fixture(scope="session")
def tiny_adapter(tiny_chat_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a LoRA adapter for `tiny_chat_llm` with random weights, as if trained."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny_chat_llm)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bundle(tiny_adapter: Path) -> Bundle:
    """A bundle with everything but a merged model; its class names are awkward, and two of them are equal."""
    import numpy as np

    from ex2.export import Bundle
    from ex2.texts.descriptions import Description
    from ex2.texts.pairs import PairText, PairTexts

    names = ("crane", 'the "big/small" \\ one', "пингвин", "crane")
    records = tuple(
        Description("birds", i, name, "What is a {}?", f"{name} number {n}, class {i}", "run", 0, {"cosine": i + n / 4})
        for n in range(2)
        for i, name in enumerate(names)
    )
    facts = {
        "name": "run",
        "base_model": {"name": "tiny", "revision": "main", "licence": None},
        "adapter": {"fingerprint": "0123456789abcdef"},
        "merged": None,
        "classifier": {"vlm": "pictogram", "vlm_fingerprint": "f" * 64},
        "vlm": {"name": "pictogram", "fingerprint": "f" * 64},
        "dataset": {"name": "birds", "classes": 4},
        "training": {"algorithm": "ppo", "seed": 0},
        "generation": {
            "prompt_format": "auto",
            "system_prompt": "Be brief.",
            "chat_template_kwargs": {},
            "max_new_tokens": 8,
            "temperature": 1.0,
            "dtype": "float32",
            "bf16": False,
        },
        "metrics": {"before_after": {}, "pair_accuracy": {}, "last": {"kl": 0.5}},
    }
    columns = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    return Bundle(
        facts=facts,
        class_names=names,
        questions=("What is a {}?", "Describe a {}."),
        records=records,
        pairs=PairTexts(names, {(0, 3): (PairText("legs", ("It is a bird.", "It is a machine.")),)}),
        classifier=columns / np.linalg.norm(columns, axis=0),
        weights={f"adapter/{path.name}": path for path in sorted(tiny_adapter.glob("adapter*"))},
    )


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs a command that must fail with status 2, one error line and no traceback; returns that line."""
    from ex2.cli import main

    def run(line: list[str]) -> str:
        with pytest.raises(SystemExit) as stop:
            main(line)
        assert stop.value.code == 2
        (row,) = [row for row in capsys.readouterr().err.splitlines() if row.startswith("error: ")]
        return row

    return run


@pytest.fixture
def wandb_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where wandb's offline runs of this test go: wandb reads its environment once a process, unless it is torn down."""
    wandb = pytest.importorskip("wandb")
    wandb.teardown()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    yield tmp_path / "wandb"
    wandb.teardown()
