from .agreement import agreement
from .comparison import compare
from .description_scores import add_scores, score_and_summarise
from .judges.load import JUDGE_FORMS, load_judge
from .pipeline import analyse
from .report import write_report
from .study import Study
from .study_plots import draw

__all__ = [
    "JUDGE_FORMS",
    "Study",
    "add_scores",
    "agreement",
    "analyse",
    "compare",
    "draw",
    "load_judge",
    "score_and_summarise",
    "write_report",
]
