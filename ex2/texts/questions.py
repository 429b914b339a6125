"""Questions about classes, and how they become prompts.

A question is a template with one `{}` for the class name; behind ` -> ` may stand an opening, which the answer is made to begin
with and which the policy goes on from: "How can you recognize a {}? -> You know a {} by its". The `short` set asks for
descriptions only, the `looks` set for what is seen, the `opened` set for the same with openings to which neither the name nor
the kind of thing is an answer; the `study` set has 25 wordings of many kinds, as many as the EX2 paper
asks for each class, in EX2's own words: some of them mention a photo, because the paper's do, and whether that invites
photo-page text is one of the things to study. The questions of the `pairs` set also have one `{other}`: they ask about a
class in contrast with another one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ex2.base.errors import UserError, did_you_mean
from ex2.base.files import text_lines
from ex2.texts.class_names import article

if TYPE_CHECKING:
    from datasets import Dataset

OPENS = " -> "
"""What stands between a question and the opening of its answer."""

TEMPLATE = "a photo of a {}"
"""The one-template control that every description is compared with."""

PAIR_QUESTIONS = {
    "color": "Describe the color of a {}, which is not a {other}.",
    "shape": "Describe the shape of a {} compared with a {other}.",
    "size": "How large is a {} compared with a {other}?",
    "pattern": "Describe the pattern of a {}, unlike a {other}.",
    "parts": "Which parts tell a {} from a {other}?",
    "place": "Where is a {} found, unlike a {other}?",
}
"""Attributes that classes are contrasted in, each with its question: plain wordings, as small LLMs take others for riddles."""

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
    "looks": (
        "What does a {} look like?",
        "Describe the appearance of a {}.",
        "What color is a {}?",
        "Which parts does a {} have?",
        "What features does a {} have?",
        "How can you recognize a {}?",
        "What color and shape is a {}?",
        "What makes a {} easy to recognize?",
    ),
    "opened": (
        "What does a {} look like? -> A {} has",
        "How can you recognize a {}? -> You know a {} by its",
        "Which parts does a {} have? -> You can see its",
        "What color is a {}? -> A {} is mostly",
        "What are the colors of a {}? -> Its colors are",
        "What is the shape of a {}? -> Its shape is",
        "Describe the looks of a {}. -> It looks like",
        "What do you see first when you see a {}? -> The first thing you see is its",
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
    "pairs": tuple(PAIR_QUESTIONS.values()),
}


_UNSEEN = dict.fromkeys((0x200B, 0x2060, 0xFEFF))  # characters without a width, which copies from web pages bring along
_NUMBERED = re.compile(r"(\d+[.):]|[-*\u2022])\s")
_JSON = ('["', '"', "['", '{"')


def load_questions(spec: str) -> tuple[str, ...]:
    """The question set called `spec`, or the lines of the text file `spec` (blank lines and lines with # left out).

    Raises:
        UserError: Unknown set, missing or empty file, a question without exactly one `{}` before its opening, or one given twice.
    """
    if spec in QUESTION_SETS:
        return QUESTION_SETS[spec]
    path = Path(spec)
    if not os.path.isfile(path):  # which takes names of any length
        hint = did_you_mean(spec, QUESTION_SETS)
        raise UserError(
            f"questions={spec} is neither a question set ({', '.join(QUESTION_SETS)}) nor a file with one a line.{hint}"
        )
    questions = read_templates(path, f"questions={spec}", "question")
    for question in questions:
        if split_question(question)[0].count("{other}") > 1:
            raise UserError(f"questions={spec}: the question {question!r} may have one {{other}}, not several.")
    return questions


def read_templates(path: Path, option: str, kind: str) -> tuple[str, ...]:
    """The lines of a text file, each with one `{}` for the class name; blank lines and lines with # are left out.

    White space is collapsed and characters without a width are taken out: both would be in every prompt.

    Raises:
        UserError: A file without lines, a line without exactly one `{}`, or one given twice; numbered lines; JSON. The message
            begins with `option` and calls a line `kind`.
    """
    lines = [" ".join(line.translate(_UNSEEN).split()) for line in text_lines(path, option)]
    templates = tuple(line for line in lines if line and not line.startswith("#"))
    if not templates:
        raise UserError(f"{option} has no {kind}s: write one a line, with {{}} for the class name.")
    if all(map(_NUMBERED.match, templates)):
        raise UserError(
            f"{option}: its {kind}s are numbered or have bullets, as {templates[0]!r}, which would be asked too: take them off."
        )
    for template in templates:
        if template.startswith(_JSON):
            raise UserError(f"{option} looks like JSON: write one {kind} a line, as it is to be asked.")
        if (split_question(template)[0] if kind == "question" else template).count("{}") != 1:
            raise UserError(f"{option}: the {kind} {template!r} needs exactly one {{}} in place of the class name.")
        if templates.count(template) > 1:
            raise UserError(f"{option}: the {kind} {template!r} stands there more than once.")
    return templates


def check_questions(questions: Iterable[str], *, about_pairs: bool) -> None:
    """See whether questions are about pairs of classes, or about single ones, as they are to be.

    Raises:
        UserError: A question has no `{other}` and needs one, or has several, or has one and must not.
    """
    for question in questions:
        if about_pairs and split_question(question)[0].count("{other}") != 1:
            raise UserError(
                f"questions: {question!r} needs exactly one {{other}}, for the class to compare with, since it is asked about "
                "pairs of classes; questions=pairs has such questions."
            )
        if not about_pairs and "{other}" in question:
            raise UserError(
                f"questions: {question!r} is about two classes: choose another set, train with pairs=N, or use "
                "`ex2 describe-pairs`."
            )


def attribute_of(question: str) -> str:
    """The attribute that a question of the `pairs` set is about; of another question, the question itself."""
    return {text: attribute for attribute, text in PAIR_QUESTIONS.items()}.get(question, question)


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


def split_question(question: str) -> tuple[str, str]:
    """A question and the opening of its answer, which is empty where it has none."""
    asked, _, opening = question.partition(OPENS)
    return asked.rstrip(), opening.strip()


def opening_of(question: str, class_name: str, other_name: str | None = None) -> str:
    """What the answer to a question begins with, as if the policy had said it; empty for most questions."""
    return named(split_question(question)[1], class_name, other_name)


def opened(opening: str, text: str) -> str:
    """An answer with its opening; nothing said stays nothing. The space that some tokenizers drop in between is put back."""
    if not text.strip():
        return text
    goes_on = not opening or re.match(r"[\s.,;:!?)'’-]", text)
    return f"{opening}{'' if goes_on else ' '}{text}"


def named(template: str, class_name: str, other_name: str | None = None) -> str:
    """A template with the names of its class and the other one; "a" becomes "an" where a name asks for it."""
    names = {"{}": class_name, "{other}": other_name or "{other}"}

    def fill(match: re.Match[str]) -> str:
        first, name = match[1] or "", names[match[2]]
        return f"{first}{'n' if first and article(name) == 'an' else ''}{' ' if first else ''}{name}"

    return re.sub(r"(?:(\b[aA]) )?(\{(?:other)?\})", fill, template)


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """The text of one completion, plain or conversational, with white space collapsed: what the VLM reads."""
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    return " ".join(text.split())


def build_prompt(
    question: str, class_name: str, *, chat: bool, system_prompt: str | None, other_name: str | None = None
) -> str | list[dict[str, str]]:
    """The prompt for one question about one class, as TRL takes it: messages for chat, else text and two newlines.

    Where the question has an opening, the prompt ends with it: the last message is then the assistant's, and not finished.
    `other_name` takes the place of `{other}` in questions about pairs.
    """
    text = named(split_question(question)[0], class_name, other_name)
    opening = opening_of(question, class_name, other_name)
    if not chat:
        return f"{text}\n\n{opening}"
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    answer = [{"role": "assistant", "content": opening}] if opening else []
    return [*system, {"role": "user", "content": text}, *answer]


def build_prompts(
    class_names: Sequence[str],
    questions: Sequence[str],
    *,
    chat: bool,
    system_prompt: str | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> Dataset:
    """All questions about all classes, class by class, with columns `prompt`, `class_id`, `class_name`, `question`, `opening`.

    With `pairs`, all questions about the first class of each pair against the second, with the columns `other_id` and
    `other_name` besides.
    """
    from datasets import Dataset

    rows = []
    for class_id, other_id in [(i, None) for i in range(len(class_names))] if pairs is None else pairs:
        other_name = None if other_id is None else class_names[other_id]
        other = {} if other_id is None else {"other_id": other_id, "other_name": other_name}
        rows += [
            {
                "prompt": build_prompt(
                    question,
                    class_names[class_id],
                    chat=chat,
                    system_prompt=system_prompt,
                    other_name=other_name,
                ),
                "class_id": class_id,
                "class_name": class_names[class_id],
                "question": question,
                "opening": opening_of(question, class_names[class_id], other_name),
                **other,
            }
            for question in questions
        ]
    return Dataset.from_list(rows)
