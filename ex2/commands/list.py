"""`ex2 list`: what options can name."""

from __future__ import annotations

from typing import Any


def add(commands: Any) -> None:
    """Describe the command to the parser."""
    listings = {
        "vlms": _list_vlms, "datasets": _list_datasets, "rewards": _list_rewards, "questions": _list_questions,
        "judges": _list_judges, "configs": _list_configs,
    }  # fmt: skip
    parser = commands.add_parser(
        "list",
        help="list what options can name: vlms, datasets, rewards, questions, judges, configs",
        description="Print what an option can name, each with one line about it.",
        epilog="Example: ex2 list questions",
    )
    parser.add_argument("what", choices=listings, help="what to list")
    parser.set_defaults(command=lambda arguments: print(listings[arguments.what]()))


def _list_vlms() -> str:
    from ex2.vlm import list_vlms

    return _table("VLM", list_vlms())


def _list_datasets() -> str:
    from ex2.data import list_datasets

    return _table("dataset", list_datasets())


def _list_rewards() -> str:
    from ex2.rewards import list_rewards

    return _table("reward", [*list_rewards(), ("package.module:function", "Your own function, see docs/rewards.md.")])


def _list_judges() -> str:
    from ex2.analysis.judges import JUDGE_FORMS

    return _table("judge", list(JUDGE_FORMS))


def _list_configs() -> str:
    from ex2.base.shipped import about_config, shipped_configs

    return _table("config", [(name, about_config(path)) for name, path in shipped_configs().items()])


def _list_questions() -> str:
    from ex2.texts.questions import QUESTION_SETS

    sets = [
        f"{name} ({len(questions)})\n" + "\n".join(f"  {question}" for question in questions)
        for name, questions in QUESTION_SETS.items()
    ]
    return "\n\n".join(
        [*sets, "FILE\n  A text file with one question a line, {} for the class name and, about pairs, {other}."]
    )


def _table(head: str, rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in [(head, ""), *rows])
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in [(head, "what it is"), *rows])
