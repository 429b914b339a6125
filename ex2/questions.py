"""Questions about classes, and how they become prompts.

A question is a template with one `{}` for the class name. The `short` set asks for descriptions only; the `study` set has
25 wordings of many kinds, as many as the EX2 paper asks for each class, in EX2's own words: some of them mention a photo,
because the paper's do, and whether that invites photo-page text is one of the things to study.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

TEMPLATE = "a photo of a {}"
"""The one-template control that every description is compared with."""

QUESTION_SETS: dict[str, tuple[str, ...]] = {
    "short": (
        "Describe a {}.",
        "What does a {} look like?",
        "How can you recognize a {}?",
        "What is special about a {}?",
        "Write one sentence about a {}.",
        "Tell me something about a {}.",
        "What is a {}?",
        "Write a caption for a {}.",
    ),
    "study": (
        "Describe a {}.",
        "What does a {} look like?",
        "How can you recognize a {}?",
        "What tells a {} apart from similar things?",
        "What is special about a {}?",
        "Write one sentence about a {}.",
        "Where would you find a {}?",
        "What is a {} known for?",
        "Write a caption for a photo of a {}.",
        "Describe a photo of a {}.",
        "What would you see in a picture of a {}?",
        "Describe the colors and shapes in an image of a {}.",
        "What stands out in a close-up photo of a {}?",
        "What is in the background of a typical photo of a {}?",
        "Explain to a child how to spot a {} in a picture.",
        "Write alt text for an image that shows a {}.",
        "A blind friend asks what is in this photo of a {}. What do you say?",
        "Write a search query that finds pictures of a {}.",
        "Write the first line of an encyclopedia entry about a {}.",
        "Write a short poem about a photo of a {}.",
        "Tell a very short story about a {}.",
        "Criticize a painting of a {}.",
        "Give a drawing lesson in one sentence: how does one draw a {}?",
        "Which details must an illustration of a {} not miss?",
        "Write a museum label for an image of a {}.",
    ),
}


def load_questions(spec: str) -> tuple[str, ...]:
    """The question set called `spec`, or the lines of the text file `spec` (blank lines and lines with # left out).

    Raises:
        UserError: Unknown set, missing or empty file, a question without exactly one `{}`, or a question given twice.
    """
    if spec in QUESTION_SETS:
        return QUESTION_SETS[spec]
    path = Path(spec)
    if not path.is_file():
        nearest = difflib.get_close_matches(spec, QUESTION_SETS, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise UserError(
            f"questions={spec} is neither a question set ({', '.join(QUESTION_SETS)}) nor a file with one a line.{hint}"
        )
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    questions = tuple(line for line in lines if line and not line.startswith("#"))
    if not questions:
        raise UserError(f"questions={spec} has no questions: write one a line, with {{}} for the class name.")
    for question in questions:
        if question.count("{}") != 1:
            raise UserError(
                f"questions={spec}: the question {question!r} needs exactly one {{}} in place of the class name."
            )
        if questions.count(question) > 1:
            raise UserError(f"questions={spec}: the question {question!r} stands there more than once.")
    return questions


def wants_chat(prompt_format: str, tokenizer: Any) -> bool:
    """Whether prompts use the tokenizer's chat template.

    Raises:
        UserError: `chat` is asked for, but the tokenizer has no template.
    """
    has_template = tokenizer.chat_template is not None
    if prompt_format == "chat" and not has_template:
        raise UserError(
            "prompt_format=chat needs a chat template, which this tokenizer lacks: use prompt_format=plain."
        )
    return has_template if prompt_format == "auto" else prompt_format == "chat"


def build_prompt(
    question: str, class_name: str, *, chat: bool, system_prompt: str | None
) -> str | list[dict[str, str]]:
    """The prompt for one question about one class, as TRL takes it: messages for chat, else text and two newlines."""
    text = question.replace("{}", class_name)
    if not chat:
        return f"{text}\n\n"
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [*system, {"role": "user", "content": text}]


def build_prompts(
    class_names: Sequence[str], questions: Sequence[str], *, chat: bool, system_prompt: str | None = None
) -> Dataset:
    """All questions about all classes, class by class, with columns `prompt`, `class_id`, `class_name`, `question`."""
    from datasets import Dataset

    rows = [
        {
            "prompt": build_prompt(question, name, chat=chat, system_prompt=system_prompt),
            "class_id": class_id,
            "class_name": name,
            "question": question,
        }
        for class_id, name in enumerate(class_names)
        for question in questions
    ]
    return Dataset.from_list(rows)
