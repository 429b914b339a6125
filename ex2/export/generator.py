"""Descriptions of any classes from a bundle, for other programs: needs transformers and peft, neither TRL nor a VLM.

from ex2 import DescriptionGenerator

generator = DescriptionGenerator.from_pretrained("bundles/birds")
records = generator.describe(["puffin", "hammer"], n=4, seed=0)
pairs = generator.contrast([("puffin", "penguin")], seed=0)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ex2.base.errors import UserError
from ex2.base.files import from_home
from ex2.base.hub import looks_like_path, require_repository
from ex2.export.bundle import ADAPTER, MERGED, read_bundle
from ex2.policy.adapters import load_adapter
from ex2.policy.asks import Ask, about, sampling_seed, spread_asks
from ex2.policy.llm import fit_padding, load_base, load_tokenizer, resolve_model
from ex2.policy.sampler import TextGenerator
from ex2.policy.source import base_of_adapter
from ex2.policy.turns import ready_to_chat
from ex2.texts.descriptions import Description
from ex2.texts.pairs import PairText, PairTexts, both_ways
from ex2.texts.questions import PAIR_QUESTIONS, attribute_of, check_questions

_ATTEMPTS = 4  # a blank answer is sampled again this often, less one
_MAX_SEED = 2**31 - 1


class DescriptionGenerator:
    """An aligned policy that describes classes.

    Args:
        generator: The policy.
        questions: Question templates with one `{}`.
        name: What records call the policy.
        fingerprint: Of its adapter.
    """

    def __init__(self, generator: TextGenerator, questions: Sequence[str], *, name: str, fingerprint: str) -> None:
        self.generator = generator
        self.questions = tuple(questions)
        self.name = name
        self.fingerprint = fingerprint

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        base_model: str | None = None,
        revision: str = "main",
        device: str = "cpu",
        cache_dir: str | None = None,
        allow_pickle_formats: bool = False,
    ) -> DescriptionGenerator:
        """Load the generator of a bundle: its merged model where it holds one, else its adapter on the base model.

        Args:
            source: Folder that `ex2 export` wrote, or hub id of one. Every file is checked against the manifest.
            base_model: Folder or hub id of the base model, and the adapter goes on it; None: the merged model, or the base
                that the adapter names.
            revision: Branch, tag or commit of a bundle on the hub.
            device: Torch device.
            cache_dir: Where the embedded LLM is converted to, if it is the base.
            allow_pickle_formats: Read weights in `.bin` files too, with torch's restricted unpickler.

        Raises:
            UserError: No bundle, a file that has changed, a model that cannot be loaded, or a hub out of reach.
        """
        folder = bundle_folder(str(source), revision)
        bundle = read_bundle(folder)
        options = bundle.facts["generation"]
        merged, base_revision = folder / MERGED, "main"
        how = {"device": device, "bf16": options["bf16"], "allow_pickle_formats": allow_pickle_formats}
        if base_model is None and merged.is_dir():
            path = str(merged)
            model: Any = load_base(path, dtype="auto", **how)
        else:
            if base_model is None:
                base_model, base_revision = base_of_adapter(folder / ADAPTER), bundle.facts["base_model"]["revision"]
            path = resolve_model(base_model, cache_dir, base_revision, option="base_model")
            base = load_base(path, revision=base_revision, dtype=options["dtype"], **how)
            model = load_adapter(base, str(folder / ADAPTER), allow_pickle_formats=allow_pickle_formats)
        tokenizer = load_tokenizer(path, base_revision)
        fit_padding(tokenizer, model.config, path)
        generator = TextGenerator(
            model=model.eval(),
            tokenizer=tokenizer,
            chat=ready_to_chat(
                tokenizer, options["prompt_format"], options["chat_template_kwargs"], path, options.get("system_prompt")
            ),
            system_prompt=options.get("system_prompt"),
            chat_template_kwargs=options["chat_template_kwargs"],
            max_new_tokens=options["max_new_tokens"],
            temperature=options["temperature"],
            bf16=options["bf16"],
            name=bundle.facts["name"],
        )
        return cls(generator, bundle.questions, name=generator.name, fingerprint=bundle.facts["adapter"]["fingerprint"])

    def describe(
        self, class_names: Sequence[str], n: int = 1, *, seed: int = 0, dataset: str = "", batch_size: int = 64
    ) -> list[Description]:
        """Describe each class `n` times; the questions take turns.

        Args:
            class_names: Any names; class ids of the records are positions here.
            n: Descriptions a class. A text that stays blank after four attempts is left out.
            seed: 0 to 2**31 - 1; equal seeds and batch sizes give equal texts.
            dataset: What the records call the set of classes.
            batch_size: Texts sampled at once.

        Raises:
            UserError: No class, a blank name, a number out of range, or a generator that was trained to contrast pairs.
        """
        check_questions(self.questions, about_pairs=False)
        names = _checked_names(class_names)
        if n < 1:
            raise UserError(f"n={n} is out of range: it must be at least 1.")
        asks = spread_asks(names, self.questions, n)
        return [
            Description(
                dataset=dataset,
                class_id=ask.class_id,
                class_name=ask.class_name,
                question=ask.question,
                text=text,
                model=self.name,
                seed=seed,
                scores={},
                extra={"policy_fingerprint": self.fingerprint},
            )
            for ask, text in zip(asks, self._answers(asks, seed, batch_size), strict=True)
            if text
        ]

    def contrast(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        questions: Mapping[str, str] | None = None,
        seed: int = 0,
        batch_size: int = 64,
    ) -> PairTexts:
        """Contrast the two classes of each pair, attribute by attribute: one sentence about either of them.

        Args:
            pairs: Pairs of class names.
            questions: Attribute -> question with `{}` and `{other}`; None: those that the generator was trained on where it was
                trained on pairs, else EX2's own.
            seed: As in `describe`.
            batch_size: Texts sampled at once.

        Returns:
            Sentences of pairs, which `ex2.texts.pairs.write_pairs` writes in FuDD's format. Class names are in the order in
            which they first occur in `pairs`. An attribute with a text that stays blank is left out.

        Raises:
            UserError: No pair, a pair of one class or given twice, a blank name, a question that is not about two classes, or
                a seed or batch size out of range.
        """
        questions = self._pair_questions() if questions is None else questions
        check_questions(questions.values(), about_pairs=True)
        names, keys = _checked_pairs(pairs)
        asks = [
            about(names, question, own, other)
            for key in keys
            for question in questions.values()
            for own, other in both_ways([key])
        ]
        answers = iter(self._answers(asks, seed, batch_size))
        found = {
            key: [PairText(attribute, both) for attribute in questions if all(both := (next(answers), next(answers)))]
            for key in keys
        }
        return PairTexts(tuple(names), {key: tuple(texts) for key, texts in found.items() if texts})

    def _pair_questions(self) -> dict[str, str]:
        own = {attribute_of(question): question for question in self.questions if "{other}" in question}
        return own or PAIR_QUESTIONS

    def _answers(self, asks: Sequence[Ask], seed: int, batch_size: int) -> list[str]:
        """One text an ask; '' where all attempts are blank."""
        if not 0 <= seed <= _MAX_SEED:
            raise UserError(f"seed={seed} is out of range: it must lie between 0 and {_MAX_SEED}.")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} is out of range: it must be at least 1.")
        texts = [""] * len(asks)
        for attempt in range(_ATTEMPTS):
            blank = [i for i, text in enumerate(texts) if not text]
            if not blank:
                break
            batches = self.generator.sample(
                [asks[i] for i in blank], seed=sampling_seed(seed, attempt << 24), batch_size=batch_size
            )
            for i, text in zip(blank, chain.from_iterable(batches), strict=True):
                texts[i] = text
        return texts


def bundle_folder(source: str, revision: str) -> Path:
    """The folder of a bundle, downloaded where `source` is a hub id."""
    folder = from_home(source)
    if folder.is_dir():
        return folder
    if looks_like_path(source):
        raise UserError(f"{source} is no folder: name a bundle that `ex2 export` wrote.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    only_cache = require_repository(source, f"bundle {source}", "use a local folder", "manifest.json")
    try:
        return Path(snapshot_download(source, revision=revision, local_files_only=only_cache))
    except (OSError, HTTPError) as error:
        raise UserError(f"bundle {source}: the download failed ({error}): try again, or use a local folder.") from error


def _checked_names(class_names: Sequence[str]) -> list[str]:
    if isinstance(class_names, str):
        raise UserError(f"class_names={class_names!r} is one string: give a list of names.")
    names = list(class_names)
    if not names:
        raise UserError("class_names is empty: give at least one name.")
    if blank := [name for name in names if not isinstance(name, str) or not name.strip()]:
        raise UserError(f"class_names holds {blank[0]!r}: every class needs a name.")
    return names


def _checked_pairs(pairs: Iterable[tuple[str, str]]) -> tuple[list[str], list[tuple[int, int]]]:
    """The names in `pairs` in the order of their first occurrence, and the pairs as ascending positions among them."""
    given = [(first, second) for first, second in pairs]
    names = _checked_names(list(dict.fromkeys(chain.from_iterable(given))))
    keys: list[tuple[int, int]] = []
    for first, second in given:
        i, j = sorted((names.index(first), names.index(second)))
        if i == j:
            raise UserError(f"pairs: ({first!r}, {second!r}) is one class: a pair needs two.")
        if (i, j) in keys:
            raise UserError(f"pairs: ({first!r}, {second!r}) is there more than once.")
        keys.append((i, j))
    return names, keys
