from .load import JUDGE_FORMS, load_judge

__all__ = [
    "JUDGE_FORMS",
    "load_judge",
]
