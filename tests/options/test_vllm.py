"""Options of vLLM rollouts: what is refused, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import transformers

from ex2.base.errors import UserError
from ex2.launch import main
from ex2.options import vllm as rollouts
from ex2.options.parse import parse_options
from ex2.options.run_options import RunOptions
from ex2.options.vllm import check_rollouts, fit_vllm_length, require_rollout_engine

Arguments = Callable[..., list[str]]


def options(**changes: object) -> RunOptions:
    """Options as on a machine with GPUs; what they are set to here is checked by hand."""
    parsed = parse_options("ppo", ["--use_cpu", "true", "--bf16", "false"])
    for name, value in ({"use_cpu": False, "use_vllm": True} | changes).items():
        setattr(parsed.trainer, name, value)
    return parsed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vllm_mode": "colocated"}, "vllm_mode=colocated is unknown: choose colocate or server"),
        ({"use_vllm": False, "vllm_mode": "server"}, "vllm_mode=server has no effect without use_vllm=true"),
        ({"use_cpu": True}, "use_vllm=true needs a CUDA GPU"),
        ({"vllm_tensor_parallel_size": 3}, "vllm_tensor_parallel_size=3 must divide the number of processes, 4"),
        ({"vllm_tensor_parallel_size": 0}, "vllm_tensor_parallel_size=0 must divide"),
        ({"vllm_gpu_memory_utilization": 1.5}, "vllm_gpu_memory_utilization=1.5 is out of range"),
        (
            {"vllm_mode": "server", "vllm_tensor_parallel_size": 2},
            "vllm_tensor_parallel_size=2 with vllm_mode=server: start the server with --tensor-parallel-size instead",
        ),
        ({"vllm_mode": "server", "vllm_gpu_memory_utilization": 0.9}, "start the server with --gpu-memory-utilization"),
    ],
)
def test_combinations_that_cannot_work(
    changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = options(**changes)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=message):
        check_rollouts(wrong)


def test_combinations_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    right = [options(use_vllm=False), options(vllm_mode="server"), options(vllm_tensor_parallel_size=2)]
    monkeypatch.setenv("WORLD_SIZE", "4")
    for each in right:
        check_rollouts(each)


def test_without_vllm_nothing_is_loaded(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ex2.run.training.load_vlm", lambda *_, **__: pytest.fail("the VLM was loaded"))
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("weights"))
    monkeypatch.setattr(rollouts, "check_rollouts", lambda _: None)  # else the CPU would be refused first
    monkeypatch.setattr(rollouts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        main("ppo", arguments(tmp_path / "run", use_vllm=True))
    assert stop.value.code == 2
    assert "error: use_vllm=true needs vLLM" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_vllm_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"use_vllm=true needs vLLM: run `pip install 'ex2\[vllm\]'`"):
        require_rollout_engine(options(), 256)
    require_rollout_engine(options(use_vllm=False), 256)


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Says that it is not ready at first, then that it is."""
    asked: list[str] = []

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(503 if len(asked) == 1 else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
    assert set(asked) <= {"/health"}


def test_the_server_is_waited_for(server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(rollouts.time, "sleep", lambda seconds: None)
    host, port = server.server_address[:2]
    require_rollout_engine(options(vllm_mode="server", vllm_server_host=host, vllm_server_port=port), 256)


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts.importlib.util, "find_spec", lambda name: name)
    wanted = options(vllm_mode="server", vllm_server_base_url="http://127.0.0.1:9", vllm_server_timeout=0.1)
    wanted.policy.model_name_or_path, wanted.policy.dtype = "org/model", "bfloat16"
    with pytest.raises(UserError, match="no vLLM server answers at http://127.0.0.1:9 ") as error:
        require_rollout_engine(wanted, 256)
    assert (
        "vllm serve org/model --port 8000 --dtype bfloat16 --max-model-len 256 --weight-transfer-config "
        """'{"backend": "nccl"}'"""
    ) in str(error.value)
    wanted.trainer.vllm_max_model_length = 300
    with pytest.raises(UserError, match="--max-model-len 300"):
        require_rollout_engine(wanted, 256)


def test_vllm_makes_room_for_the_longest_prompt_and_completion() -> None:
    open_end, given = options(), options(vllm_max_model_length=60)
    fit_vllm_length(open_end, 28)
    assert open_end.trainer.vllm_max_model_length == 28 + open_end.max_new_tokens
    needed = 61 - given.max_new_tokens
    with pytest.raises(
        UserError, match=f"^vllm_max_model_length=60 is too low: .* {needed} tokens.* set it to 61 or more"
    ):
        fit_vllm_length(given, needed)
    fit_vllm_length(given, needed - 1)
    assert given.trainer.vllm_max_model_length == 60
