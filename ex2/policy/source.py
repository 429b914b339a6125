"""Where a policy comes from: a run, a LoRA adapter or a plain LLM, found first and loaded later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ex2.base.embedded_llm import EMBEDDED, EMBEDDED_ID, embedded_installed
from ex2.base.errors import UserError, first_line
from ex2.base.files import from_home, parse_json, sha256
from ex2.base.hub import fetched_before, looks_like_path
from ex2.base.weights import check_weights
from ex2.options.ex2_options import EX2Config
from ex2.options.recorded import is_recorded, read_settings
from ex2.policy.adapters import ADAPTER_WEIGHTS, adapter_config, check_adapter_weights, load_adapter
from ex2.policy.llm import fit_padding, load_policy, load_tokenizer, resolve_model
from ex2.policy.sampler import TextGenerator
from ex2.policy.turns import ready_to_chat
from ex2.rl.checkpoints import MANIFEST
from ex2.texts.questions import load_questions

if TYPE_CHECKING:
    from ex2.policy.asks import Ask
    from ex2.policy.sampler_vllm import VLLMGenerator

_LOADING = (
    "dtype", "model_revision", "attn_implementation", "load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type",
    "use_bnb_nested_quant",
)  # fmt: skip
"""Options of a run that decide which weights are loaded, and how."""


@dataclass(frozen=True)
class PolicySource:
    """Where a policy comes from and the options it was trained with; its weights are not loaded yet.

    Attributes:
        name: What the user called it.
        settings: Options of its run, with the user's overrides; empty for a plain LLM without any.
        adapter: Folder of its LoRA adapter; None for a plain LLM.
        questions: Its question templates.
        fingerprint: Hex digest of the adapter's weights, so that texts of a replaced run are not mixed with new ones;
            empty for a plain LLM.
    """

    name: str
    settings: dict[str, Any]
    adapter: Path | None
    questions: tuple[str, ...]
    fingerprint: str

    @property
    def max_new_tokens(self) -> int:
        return int(self.settings.get("max_completion_length", 32))

    @property
    def temperature(self) -> float:
        return float(self.settings.get("temperature", 1.0))

    @property
    def base(self) -> PolicySource:
        """The LLM below the adapter, asked in the same way: the control."""
        if self.adapter is None:
            return self
        name = self.settings.get("model_name_or_path")
        if name is None and "reward_funcs" not in self.settings:  # a run that names none has the embedded LLM
            name = base_of_adapter(self.adapter)
            if name is None:
                raise UserError(f"{self.adapter} does not say which model it was made for: name it with --base_model.")
        return replace(self, name=name or EMBEDDED, adapter=None, fingerprint="")

    @property
    def fetched_from(self) -> str | None:
        """Where the weights of the base model would be fetched from; None where they are on this machine."""
        name = self.base.name
        if name == EMBEDDED or looks_like_path(name) or Path(name).is_dir() or fetched_before(name):
            return None
        return f"the hub's model {name}"

    @property
    def revision(self) -> str:
        """Branch, tag or commit of the base model."""
        return self.settings.get("model_revision") or "main"

    def base_path(self, cache_dir: str | None) -> str:
        """Folder or hub id of the base model's weights."""
        if self.adapter is None:
            return resolve_model(self.name, cache_dir, self.revision, option="RUN_OR_MODEL")
        try:
            return resolve_model(self.base.name, cache_dir, self.revision, option="base model")
        except UserError as error:
            raise UserError(f"{self.name}: {str(error).removesuffix('.')}; name it with --base_model.") from error

    def load_vllm(
        self, asks: Sequence[Ask], *, cache_dir: str | None = None, allow_pickle_formats: bool = False
    ) -> VLLMGenerator:
        """The policy in a vLLM engine with room for `asks` and their answers.

        Raises:
            UserError: vLLM is not installed, an adapter that it cannot take, or a model that cannot be found.
        """
        from ex2.policy.sampler_vllm import VLLMGenerator, require_vllm

        require_vllm()
        path = self.base_path(cache_dir)
        self._check_formats(path, allow_pickle_formats)
        formats = {} if allow_pickle_formats else {"load_format": "safetensors"}
        return VLLMGenerator.load(path, self.adapter, self.settings | formats, asks, **self._asking(path))

    def load(
        self, *, cache_dir: str | None = None, device: str = "cpu", allow_pickle_formats: bool = False
    ) -> TextGenerator:
        """Load weights and tokenizer; weights in pickles only where `allow_pickle_formats`.

        Raises:
            UserError: A model or adapter that cannot be loaded.
        """
        from trl import ModelConfig

        path = self.base_path(cache_dir)
        self._check_formats(path, allow_pickle_formats)
        asking = self._asking(path)  # its errors come before any weight is loaded
        loading = ModelConfig(**{k: self.settings[k] for k in _LOADING if k in self.settings})
        bf16 = bool(self.settings.get("bf16", False))
        model: Any = load_policy(loading, path, device=device, bf16=bf16, allow_pickle_formats=allow_pickle_formats)
        fit_padding(asking["tokenizer"], model.config, self.name)
        if self.adapter is not None:
            model = load_adapter(model, str(self.adapter), allow_pickle_formats=allow_pickle_formats)
        return TextGenerator(
            model=model.eval(),
            bf16=bf16,
            name=self.name,
            **asking,
        )

    def _check_formats(self, path: str, allow_pickle_formats: bool) -> None:
        """Refuse weights in pickles, and what is no adapter, before anything is loaded."""
        if Path(path).is_dir():
            check_weights(Path(path), self.name, allow_pickle_formats)
        if self.adapter is not None:
            adapter_config(str(self.adapter))
            check_adapter_weights(str(self.adapter), self.name, allow_pickle_formats)

    def _asking(self, path: str) -> dict[str, Any]:
        """How questions are put and answered, which both engines share."""
        tokenizer, defaults = load_tokenizer(path, self.revision), EX2Config()
        kwargs = self.settings.get("chat_template_kwargs") or {}
        return {
            "tokenizer": tokenizer,
            "chat": ready_to_chat(
                tokenizer,
                self.settings.get("prompt_format", defaults.prompt_format),
                kwargs,
                self.name,
                self.settings.get("system_prompt", defaults.system_prompt),
            ),
            "system_prompt": self.settings.get("system_prompt", defaults.system_prompt),
            "chat_template_kwargs": kwargs,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
        }


def find_policy(source: str, overrides: dict[str, Any] | None = None) -> PolicySource:
    """A run folder, a PEFT adapter, or a plain LLM (folder, hub id, or `smollm2`), without loading it.

    A run folder brings its own base model, prompt format, questions, length and temperature, an adapter those of the run
    that it lies in; everything else takes EX2's defaults, and the questions of a study. `overrides` (option names as in
    training, None: not given) win.

    Raises:
        UserError: A run without adapter (not finished), or unknown questions.
    """
    folder = from_home(source)
    settings: dict[str, Any] = {}
    adapter: Path | None = None
    if (folder / "config.yaml").is_file():
        settings = read_settings(folder / "config.yaml")
        adapter = folder / "adapter"
        if not (adapter / "adapter_config.json").is_file():
            raise UserError(
                f"{source} is a run that has not finished: it holds no adapter. Resume it, or name one of its checkpoints."
            )
    elif (folder / "adapter_config.json").is_file():
        adapter = folder
        settings = _run_settings_above(folder)
    settings |= {name: value for name, value in (overrides or {}).items() if value is not None}
    return PolicySource(
        name=str(folder) if folder.is_dir() else source,
        settings=settings,
        adapter=adapter,
        questions=load_questions(settings.get("questions", "study")),
        fingerprint="" if adapter is None else _digest(adapter),
    )


def load_generator(
    source: str,
    *,
    cache_dir: str | None = None,
    device: str = "cpu",
    overrides: dict[str, Any] | None = None,
    allow_pickle_formats: bool = False,
) -> tuple[TextGenerator, tuple[str, ...]]:
    """`find_policy`, loaded: a generator and its questions."""
    found = find_policy(source, overrides)
    loaded = found.load(cache_dir=cache_dir, device=device, allow_pickle_formats=allow_pickle_formats)
    return loaded, found.questions


def _run_settings_above(adapter: Path) -> dict[str, Any]:
    """The options of the run that a checkpoint or adapter folder lies in, if it lies in one."""
    config = adapter.resolve().parent / "config.yaml"
    return read_settings(config) if is_recorded(config) else {}


def base_of_adapter(adapter: Path) -> str | None:
    """The base model that an adapter names: folder, hub id, or the embedded LLM where that is what it names."""
    name = adapter_config(str(adapter)).base_model_name_or_path
    return EMBEDDED if name == EMBEDDED_ID and embedded_installed() else name


def _digest(adapter: Path) -> str:
    """First 16 hex digits of the SHA-256 of an adapter's weights.

    Raises:
        UserError: There are none, they are cut off, or have changed since EX2 wrote them.
    """
    files = [path for name in ADAPTER_WEIGHTS if (path := adapter / name).is_file()]
    if not files:
        raise UserError(f"{adapter} holds no weights: {ADAPTER_WEIGHTS[0]} is missing.")
    digest, listed = sha256(files[0]), _listed(adapter, files[0].name)
    problem = _cut_off(files[0]) if listed is None else None if listed == digest else f"{files[0].name} has changed"
    if problem is not None:
        raise UserError(
            f"{adapter} is damaged: {problem}. Copy it again, or resume its run (--resume_from_checkpoint true)."
        )
    return digest[:16]


def _listed(adapter: Path, name: str) -> str | None:
    """The checksum that EX2 wrote for a file beside the adapter; what else is there may be edited."""
    try:
        return str(parse_json((adapter / MANIFEST).read_bytes())["sha256"][name])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cut_off(weights: Path) -> str | None:
    """What is wrong with a file of weights that no checksum is known of."""
    if weights.suffix != ".safetensors":
        return None
    try:
        with safe_open(weights, framework="pt") as file:
            file.keys()
    except (OSError, SafetensorError) as error:
        return f"{weights.name} cannot be read ({first_line(error)})"
    return None
