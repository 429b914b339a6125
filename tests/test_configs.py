"""Every configuration that comes with the project can be used as its header says."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import pytest
import transformers
import yaml

from ex2.data.benchmarks import BENCHMARKS
from ex2.options.parse import parse_options
from ex2.options.run_options import RunOptions
from ex2.run import dry_run
from ex2.texts.questions import QUESTION_SETS
from ex2.vlm import check_spec, openclip

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
PAPER, MODERN, FAST = (
    sorted(path for path in (ROOT / "configs" / name).glob("*.yaml") if path.stem != "base")
    for name in ("paper", "modern", "fast")
)


def parse(algorithm: str, path: Path, *line: str) -> RunOptions:
    """This machine may have no GPU: precision is the one thing that is not tried."""
    return parse_options(algorithm, ["--config", str(path), *line, "--bf16", "false", "--use_cpu", "true"])


def test_there_are_configurations() -> None:
    assert ROOT / "configs" / "quickstart.yaml" in CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_parses_with_the_command_in_its_header(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    head = path.read_text(encoding="utf-8").splitlines()[:3]
    assert [line.partition(":")[0] for line in head] == ["# What", "# Hardware", "# Command"]
    command = shlex.split(head[2].partition(":")[2])
    script = next(part for part in command if part.startswith("train/"))
    assert (ROOT / script).is_file()
    for part in command:
        if part.startswith("accelerate_configs/"):
            assert (ROOT / part).is_file()
    line = command[command.index(script) + 1 :]
    assert line[:2] == ["--config", str(path.relative_to(ROOT))]
    algorithm = re.fullmatch(r"train/(\w+)_ex2\.py", script)
    assert algorithm is not None
    options = parse(algorithm[1], path, *line[2:])
    assert options.output_dir.parts[0] == "runs"
    assert options.samples_per_rollout % options.trainer.num_generations == 0


def test_training_scripts_start_their_own_algorithm() -> None:
    for algorithm in ("ppo", "grpo", "rloo"):
        text = (ROOT / "train" / f"{algorithm}_ex2.py").read_text(encoding="utf-8")
        assert f'main("{algorithm}")' in text


# ---------------------------------------------------------------- presets


@pytest.mark.parametrize(
    ("path", "usual"),
    [(FAST[0], "paper/clip_b32"), (FAST[1], "modern/qwen3_4b"), (FAST[2], "modern/qwen3_4b")],
    ids=[path.stem for path in FAST],
)
def test_fast_presets_learn_the_same(path: Path, usual: str) -> None:
    """Texts a rollout, texts an update, passes and updates are those of the usual job; what a pass holds differs."""
    fast, slow = parse("ppo", path), parse("ppo", ROOT / "configs" / f"{usual}.yaml")
    assert fast.samples_per_rollout == slow.samples_per_rollout
    assert fast.updates_per_rollout == slow.updates_per_rollout
    may_differ = {
        "load_in_8bit", "model_name_or_path", "chat_template_kwargs", "per_device_train_batch_size", "steps_per_generation",
        "gradient_accumulation_steps", "scoring_batch_size", "output_dir",
    }  # fmt: skip
    differ = {name for name, value in fast.as_dict().items() if value != slow.as_dict()[name]}
    assert differ <= may_differ


def test_the_paper_s_settings() -> None:
    options = parse("ppo", ROOT / "configs" / "paper" / "clip_b32.yaml")
    trainer, policy = options.trainer, options.policy
    assert (options.samples_per_rollout, options.prompts_per_rollout, trainer.num_iterations) == (32, 32, 4)
    assert trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps == 8
    assert options.planned_samples(200 * 25) == 1000 * 32
    assert (trainer.learning_rate, trainer.lr_scheduler_type, trainer.max_grad_norm) == (1.41e-5, "constant", 0)
    assert (trainer.beta, trainer.kl_target, trainer.kl_horizon) == (0.2, 10, 10_000)
    assert (trainer.epsilon, trainer.cliprange_value, trainer.vf_coef, trainer.gamma, trainer.lam) == (
        0.2,
        0.2,
        0.1,
        1,
        0.95,
    )
    assert (trainer.whiten_advantages, trainer.group_baseline, trainer.detach_value_head) == (True, False, False)
    assert (trainer.temperature, trainer.max_completion_length, options.ex2.prompt_format) == (1.0, 32, "plain")
    assert (policy.model_name_or_path, policy.load_in_8bit) == ("mistralai/Mistral-7B-v0.1", True)
    assert (policy.lora_r, policy.lora_alpha, policy.lora_dropout) == (16, 32, 0.05)
    assert policy.lora_target_modules == ["q_proj", "v_proj"]
    assert (options.ex2.images_per_class, options.ex2.reward_normalization, options.ex2.reward_scale) == (
        256,
        "scale",
        100,
    )
    assert len(QUESTION_SETS[options.ex2.questions]) == 25


@pytest.mark.parametrize("path", [*PAPER, *MODERN, *FAST], ids=lambda path: path.stem)
def test_one_preset_trains_with_every_algorithm(path: Path) -> None:
    ppo, grpo, rloo = (parse(algorithm, path) for algorithm in ("ppo", "grpo", "rloo"))
    assert ppo.samples_per_rollout == grpo.samples_per_rollout == rloo.samples_per_rollout
    assert ppo.planned_samples(1000) == grpo.planned_samples(1000) == rloo.planned_samples(1000)
    assert (grpo.trainer.num_generations, grpo.trainer.scale_rewards, rloo.trainer.num_generations) == (4, "none", 4)
    assert ppo.trainer.beta == grpo.trainer.beta == rloo.trainer.beta


def test_the_paper_s_vlms_differ_in_the_vlm_alone() -> None:
    cells = [parse("ppo", path).as_dict() for path in PAPER]
    assert len({cell["vlm"] for cell in cells}) == len({cell["output_dir"] for cell in cells}) == len(PAPER) == 7
    rest = [{name: value for name, value in cell.items() if name not in ("vlm", "output_dir")} for cell in cells]
    assert all(cell == rest[0] for cell in rest)
    for path in PAPER:
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) == {"base", "vlm", "output_dir"}


@pytest.mark.parametrize("path", [*PAPER, *MODERN, *FAST], ids=lambda path: path.stem)
def test_vlms_of_presets_are_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip's own registries, without its hub: model, tag and activation function."""
    spec = parse("ppo", path).ex2.vlm
    check_spec(spec)
    monkeypatch.setattr(openclip, "require_repository", lambda *_: True)
    if spec.startswith("open_clip:"):
        model, tag = openclip._known_model(spec.removeprefix("open_clip:"), spec)
        openclip._needs_quick_gelu(model, tag, spec)
    else:
        assert re.fullmatch(r"hf:[\w-]+/[\w.-]+", spec)


def test_the_grid_has_every_preset_and_the_paper_s_datasets() -> None:
    path = ROOT / "analysis" / "paper_grid.yaml"
    grid = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert sorted((path.parent / config).resolve() for config in grid["vlms"].values()) == PAPER
    assert all(Path(config).stem == name for name, config in grid["vlms"].items())
    assert list(grid["datasets"]) == ["cub", "aircraft", "flowers", "pets", "cars", "dogs"]
    for name, spec in grid["datasets"].items():
        assert spec.startswith(f"{name}:{{data}}/")
        assert name in BENCHMARKS


# Public shapes of the models that the presets name; what is left out is the default of the configuration's class.
_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
SHAPES = {
    "mistralai/Mistral-7B-v0.1": ("MistralConfig", {}),
    "Qwen/Qwen3-4B-Instruct-2507": (
        "Qwen3Config",
        {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
         "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True},
    ),
    "Qwen/Qwen3-8B": (
        "Qwen3Config",
        {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
         "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False},
    ),
    "HuggingFaceTB/SmolLM3-3B": ("SmolLM3Config", {"tie_word_embeddings": True}),
    "openai/clip-vit-base-patch32": ("CLIPConfig", {}),
    "openai/clip-vit-large-patch14-336": (
        "CLIPConfig",
        {"text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}, "projection_dim": 768},
    ),
    "kakaobrain/align-base": ("AlignConfig", {}),
    "google/siglip-so400m-patch14-384": ("SiglipConfig", {"text_config": {**_SO400M, "projection_size": 1152}}),
    "google/siglip2-so400m-patch14-384": (
        "SiglipConfig", {"text_config": {**_SO400M, "projection_size": 1152, "vocab_size": 256_000}},
    ),
}  # fmt: skip


@pytest.mark.slow
def test_the_memory_table_is_what_the_dry_run_estimates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {}
    for name, (kind, shape) in SHAPES.items():
        folders[name] = str(tmp_path / name)
        getattr(transformers, kind)(**shape).save_pretrained(folders[name])
    monkeypatch.setattr(dry_run, "_text_tower_parameters", functools.cache(dry_run._text_tower_parameters))
    document = (ROOT / "docs" / "reproducing.md").read_text(encoding="utf-8")
    for path in (*PAPER, *MODERN, *FAST):
        options = parse("ppo", path)
        options.trainer.bf16 = True
        options.policy.model_name_or_path = folders[options.policy.model_name_or_path]
        kind, _, name = options.ex2.vlm.partition(":")
        options.ex2.vlm = f"{kind}:{folders.get(name, name)}"
        table, _ = dry_run._memory_text(options, dry_run.policy_size(options))
        rows = {line[:22].strip(): line[22:34].strip() for line in table.splitlines()[1:]}
        cells = " | ".join(rows[part] for part in ("base weights", "VLM text tower", "sum"))
        assert f"| `{path.parent.name}/{path.stem}` | {cells} |" in document
        assert f"({float(rows['sum'].split()[0]):.1f} GiB by the estimate" in path.read_text(encoding="utf-8")
