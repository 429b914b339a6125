from .categories import CATEGORIES, TAGS, Judge, Judgement, Passage, of_text, split_clauses
from .class_names import strip_name
from .descriptions import Description, append_descriptions, read_descriptions, write_descriptions
from .pairs import PairText, PairTexts, pair_texts, read_pairs, write_pairs
from .probe import ProbeSentence, read_probe, shipped_probe
from .questions import QUESTION_SETS, TEMPLATE, build_prompt, build_prompts, load_questions

__all__ = [
    "CATEGORIES",
    "Description",
    "Judge",
    "Judgement",
    "PairText",
    "PairTexts",
    "Passage",
    "ProbeSentence",
    "QUESTION_SETS",
    "TAGS",
    "TEMPLATE",
    "append_descriptions",
    "build_prompt",
    "build_prompts",
    "load_questions",
    "of_text",
    "pair_texts",
    "read_descriptions",
    "read_pairs",
    "read_probe",
    "shipped_probe",
    "split_clauses",
    "strip_name",
    "write_descriptions",
    "write_pairs",
]
