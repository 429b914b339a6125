"""The dry run: what it prints, and that it touches neither weights nor folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from scipy.stats import t

from ex2.analysis.findings import TOGETHER
from ex2.base.errors import UserError
from ex2.launch import main
from ex2.options.ex2_options import EX2Config
from ex2.options.parse import parse_options
from ex2.run.dry_run import PolicySize, _duration, base_weight_bytes, describe, policy_size

Arguments = Callable[..., list[str]]


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every way to read weights fail."""
    import ex2.vlm.pictogram  # noqa: F401 - else it would be imported with what is refused below, and keep it

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a dry run read weights")

    for name in (
        "safetensors.safe_open", "safetensors.torch.load_file", "torch.load", "transformers.modeling_utils.safe_open",
        "transformers.PreTrainedModel.from_pretrained", "transformers.AutoModelForCausalLM.from_pretrained",
        "transformers.AutoModel.from_pretrained", "open_clip.create_model_and_transforms", "PIL.Image.open",
    ):  # fmt: skip
        monkeypatch.setattr(name, refuse)


@pytest.mark.usefixtures("no_weights")
def test_options_batches_and_memory_by_hand(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "run"
    line = arguments(output, dry_run=True, lora_target_modules=["q_proj"], dtype="bfloat16", max_steps=5)
    main("ppo", line)
    text = capsys.readouterr().out
    assert not output.exists()
    assert list(tmp_path.iterdir()) == []

    options = yaml.safe_load(text.partition("# Options")[2].partition("# Batches")[0].partition("\n")[2])
    assert options["vlm"] == "pictogram"  # EX2's own options are all there
    assert options["reward_funcs"] == ["cosine", "no_repetition"]
    assert options["learning_rate"] == 0.01  # differs from the default
    assert "adam_beta1" not in options  # does not

    rows = {line[:27].strip(): line[27:35].strip() for line in text.partition("# Batches")[2].splitlines()}
    assert rows["samples a rollout"] == "8"
    assert rows["prompts a rollout"] == "4"
    assert rows["updates a rollout"] == "2"
    assert rows["samples an update"] == "4"
    assert rows["rollouts in the run"] == "3"  # 5 updates, 2 a rollout
    assert rows["samples in the run"] == "24"
    assert rows["questions"] == "32"  # 4 classes x 8 templates
    assert rows["passes over the questions"] == "0.75"

    can_show = text.partition("# What the results can show")[2].partition("#")[0]
    assert "4 classes with " in can_show
    assert "no difference of accuracy below" in can_show
    # 0.2 / sqrt(4) times (t at the level of all that a verdict rests on, and of the power, with three degrees of freedom).
    points = 100 * 0.1 * (t.ppf((1 + TOGETHER) / 2, 3) + t.ppf(0.8, 3))
    assert f"A category's share of clauses has to change by {points:.0f} points to be seen" in can_show

    memory = text.partition("# Memory")[2]
    # Embedding and head 2 x 340 x 32; a layer: q, o 32 x 32, k, v 16 x 32, three 32 x 64 and two norms; a last norm.
    base = 2 * 340 * 32 + 2 * (2 * 1024 + 2 * 512 + 3 * 2048 + 64) + 32
    assert f"{base:,} parameters, bfloat16" in memory
    assert "512 parameters x 4 bytes" in memory  # rank 4 x (32 + 32) x 2 layers
    assert "33 parameters with gradient and Adam" in memory
    assert "4 texts x 72 tokens (prompts taken as 64) x 32 wide x" in memory
    assert "sampling 8 texts at once" in memory
    assert "22,713,216 parameters, float32" in memory
    assert "unknown" not in memory


@pytest.mark.parametrize(("seconds", "shown"), [(25.2, "25.2 s"), (90, "1.5 min"), (11160, "3.1 h")])
def test_times_in_the_unit_in_which_they_are_no_zero(seconds: float, shown: str) -> None:
    assert _duration(seconds) == shown


def test_quantised_weights_by_hand() -> None:
    size = PolicySize(parameters=1000, linear=640, lora=0, layers=1, hidden=1, kv_width=1, dtype="bfloat16")
    assert base_weight_bytes(size, load_in_8bit=False, load_in_4bit=False) == (2000.0, "bfloat16")
    assert base_weight_bytes(size, load_in_8bit=True, load_in_4bit=False)[0] == 640 + 2 * 360
    assert base_weight_bytes(size, load_in_8bit=False, load_in_4bit=True)[0] == 320 + 40 + 2 * 360


@pytest.mark.usefixtures("no_weights")
def test_the_embedded_policy_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EX2_CACHE", str(tmp_path / "cache"))
    line = [
        "--num_generations",
        "1",
        "--per_device_train_batch_size",
        "8",
        "--use_cpu",
        "true",
        "--lora_target_modules",
        "all-linear",
    ]
    size = policy_size(parse_options("ppo", line))
    assert size == PolicySize(134_515_008, 106_168_320, 4_884_480, 30, 576, 192, "float32")
    assert not (tmp_path / "cache").exists()


def test_the_embedded_shape_is_the_files() -> None:
    """Header of the GGUF file against the constants; only the fields in question are decoded."""
    gguf = pytest.importorskip("gguf")
    from ex2.base.embedded_llm import embedded_gguf
    from ex2.run.dry_run import _EMBEDDED_SHAPE

    reader = gguf.GGUFReader(embedded_gguf())
    names = {
        "hidden_size": "embedding_length", "intermediate_size": "feed_forward_length", "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
    }  # fmt: skip
    for ours, theirs in names.items():
        assert reader.get_field(f"llama.{theirs}").contents() == _EMBEDDED_SHAPE[ours]
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["token_embd.weight"].shape.tolist() == [
        _EMBEDDED_SHAPE["hidden_size"],
        _EMBEDDED_SHAPE["vocab_size"],
    ]
    assert "output.weight" not in tensors  # tied


@pytest.mark.usefixtures("no_weights")
def test_a_hub_out_of_reach_leaves_numbers_unknown(arguments: Arguments, tmp_path: Path) -> None:
    ids = {"model_name_or_path": "ex2-tests/absent", "vlm": "hf:ex2-tests/absent-vlm"}
    text = describe(parse_options("ppo", arguments(tmp_path / "run", **ids)))
    memory = text.partition("# Memory")[2]
    assert "unknown  unknown: model_name_or_path=ex2-tests/absent: 'ex2-tests/absent' could not be fetched" in memory
    assert "'ex2-tests/absent-vlm' could not be fetched" in memory
    assert "sum of what is known" in memory
    assert "samples in the run" in text


@pytest.mark.usefixtures("no_weights")
def test_other_vlms_algorithms_and_adapters(arguments: Arguments, trained_run: Path, tmp_path: Path) -> None:
    options = {"vlm": "open_clip:hf-hub:some/model", "gradient_checkpointing": True}
    text = describe(parse_options("grpo", arguments(tmp_path / "run", **options)))
    assert "unknown until loaded" in text
    assert "value head" not in text
    assert "(2 layers + 17)" in text
    adapter = {"adapter_name_or_path": trained_run / "adapter", "reference": "start"}
    text = describe(parse_options("ppo", arguments(trained_run, **adapter)))
    assert "x 2 (frozen reference)" in text
    assert f"Note: output_dir={trained_run} already holds a run" in text


@pytest.mark.usefixtures("no_weights")
def test_a_built_in_open_clip_model_is_counted_offline(arguments: Arguments, tmp_path: Path) -> None:
    layer = 4 * (512 * 512 + 512) + 2 * 512 * 2048 + 2048 + 512 + 4 * 512
    tower = 49408 * 512 + 77 * 512 + 12 * layer + 2 * 512 + 512 * 512 + 1  # as below, of CLIP ViT-B/32
    text = describe(parse_options("ppo", arguments(tmp_path / "run", vlm="open_clip:ViT-B-32/openai")))
    assert f"{tower:,} parameters, float32" in text
    text = describe(
        parse_options("ppo", arguments(tmp_path / "run", vlm="open_clip:roberta-ViT-B-32/laion2b_s12b_b32k"))
    )
    assert "unknown until loaded" in text
    with pytest.raises(UserError, match="open_clip has no model 'ViT-B-33'; nearest: ViT-B-32"):
        describe(parse_options("ppo", arguments(tmp_path / "run", vlm="open_clip:ViT-B-33/openai")))


@pytest.mark.usefixtures("no_weights")
def test_an_hf_vlm_in_a_folder_is_counted_without_its_image_tower(arguments: Arguments, tmp_path: Path) -> None:
    from transformers import CLIPConfig

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPConfig(text_config={"vocab_size": 100, **small}, vision_config=small, projection_dim=16).save_pretrained(
        tmp_path
    )
    text = describe(parse_options("ppo", arguments(tmp_path / "run", vlm=f"hf:{tmp_path}", vlm_dtype="float16")))
    layer = 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 2 * 64
    tower = 100 * 32 + 77 * 32 + layer + 64 + 32 * 16 + 1  # embeddings, layer, last norm, projection, logit scale
    assert f"{tower:,} parameters, float16" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vlm": "clip"}, "is not known"),
        ({"reward_funcs": ["cosin"]}, "Did you mean cosine"),
        ({"dataset": "folder:/no/folder"}, "does not exist"),
        ({"lora_target_modules": ["query"]}, "query"),
        ({"lora_target_modules": ["lm_head"]}, "adapts the LM head"),
        ({"eval_strategy": "steps"}, "The PPO trainer refuses these options"),
        ({"adapter_name_or_path": "/tmp"}, "holds no adapter"),
        ({"prompt_format": "chat"}, "prompt_format=plain"),
        ({"steps_per_generation": 100}, "different prompts"),
    ],
)
def test_what_the_run_would_refuse_is_refused(
    options: dict[str, Any], words: str, arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main("ppo", arguments(tmp_path / "run", dry_run=True, **options))
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_only_one_process_prints(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ex2.run.dry_run.describe", lambda options: "the plan")
    for rank, printed in (("0", "the plan\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setattr(
            "ex2.options.parse.parse_options", lambda algorithm, argv: SimpleNamespace(ex2=EX2Config(dry_run=True))
        )
        main("ppo", [])
        assert capsys.readouterr().out == printed
