"""Sample descriptions from a policy: in memory for the trainer, or from a run, an adapter or a plain LLM."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ex2.base.embedded_llm import EMBEDDED, EMBEDDED_ID, embedded_installed
from ex2.base.errors import UserError
from ex2.options.ex2_options import EX2Config
from ex2.policy import ADAPTER_WEIGHTS, adapter_config, load_adapter, load_policy, load_tokenizer, resolve_model
from ex2.texts.questions import build_prompt, load_questions, wants_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ex2.generation_vllm import VLLMGenerator


_LOADING = (
    "dtype", "model_revision", "attn_implementation", "load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type",
    "use_bnb_nested_quant",
)  # fmt: skip
"""Options of a run that decide which weights are loaded, and how."""


def sampling_seed(seed: int, number: int = 0) -> int:
    """Seed of the random numbers `number`, counted on from those of the user's `seed`.

    torch's generator on the CPU reads 32 bits only. Multiples of the golden ratio lie as evenly over them as can be
    (Knuth, The Art of Computer Programming, volume 3, section 6.4), so those of one seed do not meet those of another.
    """
    return (seed * 0x9E3779B1 + number) % 2**32


@dataclass(frozen=True)
class Ask:
    """One question about one class, perhaps in contrast with another one, to be answered once."""

    class_id: int
    class_name: str
    question: str
    other_id: int | None = None
    other_name: str | None = None

    @property
    def subject(self) -> tuple[int, ...]:
        """Id of the class, or of the class and the other one."""
        return (self.class_id,) if self.other_id is None else (self.class_id, self.other_id)


def about(class_names: Sequence[str], question: str, class_id: int, other_id: int | None = None) -> Ask:
    """The ask of `question` about a class, against another one where `other_id` is given."""
    return Ask(class_id, class_names[class_id], question, other_id, None if other_id is None else class_names[other_id])


def spread_asks(
    class_names: Sequence[str],
    questions: Sequence[str],
    samples: int,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> list[Ask]:
    """`samples` asks a class, class by class; questions rotate, one further for each class, so that all are used.

    With ordered `pairs`, `samples` asks about each. Both orders of a pair, side by side, get the same questions, so that
    their answers can be compared.
    """
    if pairs is None:
        return [
            about(class_names, questions[(i + n) % len(questions)], i)
            for i in range(len(class_names))
            for n in range(samples)
        ]
    return [
        about(class_names, questions[(k // 2 + n) % len(questions)], i, j)
        for k, (i, j) in enumerate(pairs)
        for n in range(samples)
    ]


@dataclass
class TextGenerator:
    """A policy with everything that turns questions into texts.

    Attributes:
        model: Causal LM, with or without adapter.
        tokenizer: Its tokenizer, padding on the left.
        chat: Whether prompts use the chat template.
        system_prompt: System message of chat prompts.
        max_new_tokens: Longest text, in tokens of the policy.
        temperature: Sampling temperature; sampling is from the whole distribution (top-k off, top-p 1), as in training.
        bf16: Whether to multiply in bfloat16 whatever the precision of the weights, as training does with `bf16`.
        name: Where the policy came from, for records.
        chat_template_kwargs: Further arguments of the chat template, such as `enable_thinking`.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    chat: bool
    system_prompt: str | None
    max_new_tokens: int
    temperature: float = 1.0
    bf16: bool = False
    name: str = ""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def sample(self, asks: Sequence[Ask], *, seed: int, batch_size: int = 64) -> Iterator[list[str]]:
        """Answer `asks` in order, one list of texts a batch.

        Batch number b is sampled under seed + b, so a batch comes out the same whether or not earlier ones were run.
        The caller's random state is left as it was.
        """
        import torch

        config = self._generation_config()
        for number, start in enumerate(range(0, len(asks), batch_size)):
            batch = asks[start : start + batch_size]
            inputs = self._tokenize(batch).to(self.model.device)
            autocast = torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16)
            with torch.no_grad(), torch.random.fork_rng(), _generating(self.model, config), autocast:
                torch.manual_seed(seed + number)
                output = self.model.generate(**inputs, generation_config=config)
            texts = self.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            yield [" ".join(text.split()) for text in texts]

    def _generation_config(self) -> Any:
        """Sampling from the whole distribution, as in training: nothing of the model's own generation settings but its ends."""
        from transformers import GenerationConfig

        ends = self.model.generation_config.eos_token_id
        ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        return GenerationConfig(
            do_sample=True,
            temperature=self.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.max_new_tokens,
            bos_token_id=self.tokenizer.bos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=list(dict.fromkeys([*ends, self.tokenizer.eos_token_id])),
        )

    def _tokenize(self, asks: Sequence[Ask]) -> Any:
        prompts: Any = [
            build_prompt(
                ask.question,
                ask.class_name,
                chat=self.chat,
                system_prompt=self.system_prompt,
                other_name=ask.other_name,
            )
            for ask in asks
        ]
        if self.chat:
            return self.tokenizer.apply_chat_template(
                prompts,
                add_generation_prompt=True,
                padding=True,
                return_tensors="pt",
                return_dict=True,
                **self.chat_template_kwargs,
            )
        return self.tokenizer(prompts, padding=True, return_tensors="pt")


@contextmanager
def _generating(model: Any, config: Any) -> Iterator[None]:
    """Eval mode and `config` in place of the model's own settings, which `generate` would mix in; then back to what was."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    training, own = model.training, base.generation_config
    model.eval()
    model.generation_config = base.generation_config = config
    try:
        yield
    finally:
        model.generation_config = base.generation_config = own
        model.train(training)


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
        name = self.settings.get("model_name_or_path") or base_of_adapter(self.adapter)
        return replace(self, name=name or EMBEDDED, adapter=None, fingerprint="")

    @property
    def revision(self) -> str:
        """Branch, tag or commit of the base model."""
        return self.settings.get("model_revision") or "main"

    def base_path(self, cache_dir: str | None) -> str:
        """Folder or hub id of the base model's weights."""
        if self.adapter is None:
            return resolve_model(self.name, cache_dir, self.revision, option="RUN_OR_MODEL")
        return resolve_model(self.base.name, cache_dir, self.revision)

    def load_vllm(self, *, cache_dir: str | None = None) -> VLLMGenerator:
        """The policy in a vLLM engine.

        Raises:
            UserError: vLLM is not installed, or a model that cannot be found.
        """
        from ex2.generation_vllm import VLLMGenerator, require_vllm

        require_vllm()
        path = self.base_path(cache_dir)
        return VLLMGenerator.load(path, self.adapter, self.settings, **self._asking(path))

    def load(self, *, cache_dir: str | None = None, device: str = "cpu") -> TextGenerator:
        """Load weights and tokenizer.

        Raises:
            UserError: A model or adapter that cannot be loaded.
        """
        from trl import ModelConfig

        path = self.base_path(cache_dir)
        asking = self._asking(path)  # its errors come before any weight is loaded
        model: Any = load_policy(ModelConfig(**{k: self.settings[k] for k in _LOADING if k in self.settings}), path)
        if self.adapter is not None:
            model = load_adapter(model, str(self.adapter))
        return TextGenerator(
            model=(model if getattr(model, "is_quantized", False) else model.to(device)).eval(),
            bf16=bool(self.settings.get("bf16", False)),
            name=self.name,
            **asking,
        )

    def _asking(self, path: str) -> dict[str, Any]:
        """How questions are put and answered, which both engines share."""
        tokenizer, defaults = load_tokenizer(path, self.revision), EX2Config()
        return {
            "tokenizer": tokenizer,
            "chat": wants_chat(self.settings.get("prompt_format", defaults.prompt_format), tokenizer),
            "system_prompt": self.settings.get("system_prompt", defaults.system_prompt),
            "chat_template_kwargs": self.settings.get("chat_template_kwargs") or {},
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
    folder = Path(source).expanduser()
    settings: dict[str, Any] = {}
    adapter: Path | None = None
    if (folder / "config.yaml").is_file():
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
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
    source: str, *, cache_dir: str | None = None, device: str = "cpu", overrides: dict[str, Any] | None = None
) -> tuple[TextGenerator, tuple[str, ...]]:
    """`find_policy`, loaded: a generator and its questions."""
    found = find_policy(source, overrides)
    return found.load(cache_dir=cache_dir, device=device), found.questions


def _run_settings_above(adapter: Path) -> dict[str, Any]:
    """The options of the run that a checkpoint or adapter folder lies in, if it lies in one."""
    config = adapter.resolve().parent / "config.yaml"
    return yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}


def base_of_adapter(adapter: Path) -> str | None:
    """The base model that an adapter names: folder, hub id, or the embedded LLM where that is what it names."""
    name = adapter_config(str(adapter)).base_model_name_or_path
    return EMBEDDED if name == EMBEDDED_ID and embedded_installed() else name


def _digest(adapter: Path) -> str:
    """First 16 hex digits of the SHA-256 of an adapter's weights."""
    files = [path for name in ADAPTER_WEIGHTS if (path := adapter / name).is_file()]
    if not files:
        raise UserError(f"{adapter} holds no weights: {ADAPTER_WEIGHTS[0]} is missing.")
    return hashlib.sha256(files[0].read_bytes()).hexdigest()[:16]
