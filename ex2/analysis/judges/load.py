"""Judges by their specs: ``load_judge("openai:gpt-4o-mini")``."""

from __future__ import annotations

from difflib import get_close_matches

from ex2.base.cache import cache_folder
from ex2.base.errors import UserError
from ex2.base.files import from_home
from ex2.base.hub import looks_like_path
from ex2.texts.categories import Judge

JUDGE_FORMS = [
    ("local", "embedded classifier; no hub, no network"),
    ("local:mpnet", "the same on a larger encoder, better and slower: needs requirements-mpnet.txt"),
    ("openai:MODEL", "model behind an OpenAI-compatible server: OPENAI_API_KEY, OPENAI_BASE_URL; answers are cached"),
    ("hf:ID_OR_DIR", "instruct LLM through transformers: hub repository, local folder, or hf:smollm2; gives no tags"),
]
"""Forms of a judge's spec, each with one line about it."""


def check_judge(spec: str) -> None:
    """Raise UserError where a spec has none of the forms of `JUDGE_FORMS`, or lacks its folder or key; nothing is loaded."""
    kind, _, name = spec.partition(":")
    if spec not in ("local", "local:mpnet") and not (kind in ("openai", "hf") and name):
        raise UserError(_unknown_spec(spec))
    if kind == "openai":
        load_judge(spec)
    if kind == "hf" and looks_like_path(name) and not from_home(name).is_dir():
        raise UserError(f"judge {spec}: {name} is not a folder.")


def load_judge(
    spec: str,
    *,
    device: str = "cpu",
    cache_dir: str | None = None,
    exact: bool = True,
    allow_pickle_formats: bool = False,
) -> Judge:
    """The judge that `spec` names, ready to judge.

    Args:
        spec: One of `JUDGE_FORMS`.
        device: Torch device of the judges that run here.
        cache_dir: Folder of cached answers and converted models; None: $EX2_CACHE or ~/.cache/ex2.
        exact: The local judge multiplies in float32 also where the processor is faster in bfloat16.
        allow_pickle_formats: Read weights of `hf:` judges in `.bin` files too, with torch's restricted unpickler.

    Raises:
        UserError: A spec of no known form, or a judge that cannot be had: no key, no model, a package missing.
    """
    kind, _, name = spec.partition(":")
    # Imported here: whoever needs one judge does not wait for the others' libraries.
    if spec == "local":
        from ex2.analysis.judges.local import LocalJudge

        return LocalJudge.load(device, exact=exact)
    if spec == "local:mpnet":
        from ex2.analysis.judges.encoders import MPNET
        from ex2.analysis.judges.local import LocalJudge

        return LocalJudge.load(device, exact=exact, encoder=MPNET, cache_dir=cache_dir)
    if kind == "openai" and name:
        from ex2.analysis.judges.openai import OpenAIJudge

        return OpenAIJudge(name, cache=cache_folder(cache_dir) / "judges")
    if kind == "hf" and name:
        from ex2.analysis.judges.hf import HFJudge

        return HFJudge(name, device=device, cache_dir=cache_dir, allow_pickle_formats=allow_pickle_formats)
    raise UserError(_unknown_spec(spec))


def _unknown_spec(spec: str) -> str:
    kind, colon, name = spec.partition(":")
    names = {"local": "local", "embedded": "local", "mpnet": "local:mpnet"}
    if colon and kind == "local":
        names["local"] = "local:mpnet"
    names |= dict.fromkeys(("openai", "gpt"), f"openai:{name or 'MODEL'}")
    names |= dict.fromkeys(("hf", "huggingface", "transformers"), f"hf:{name or 'ID_OR_DIR'}")
    nearest = get_close_matches(kind.lower(), names, n=1)
    hint = f"did you mean `{names[nearest[0]]}`? " if nearest else ""
    if not colon and not nearest and spec:
        hint = f"did you mean `openai:{spec}` or `hf:{spec}`? "
    forms = ", ".join(f"`{form}`" for form, _ in JUDGE_FORMS)
    return f"judge {spec!r} is not known: {hint}Use one of {forms}."
