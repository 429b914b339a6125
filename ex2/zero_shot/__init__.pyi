from .class_texts import ClassTexts, read_class_texts
from .classification import classify, fudd
from .confusion import ConfusedPair, confused_pairs
from .systems import Comparison, compare
from .vectors import Accuracy, Predictions, TextSums, class_vectors, evaluate, predict

__all__ = [
    "Accuracy",
    "ClassTexts",
    "Comparison",
    "ConfusedPair",
    "Predictions",
    "TextSums",
    "class_vectors",
    "classify",
    "compare",
    "confused_pairs",
    "evaluate",
    "fudd",
    "predict",
    "read_class_texts",
]
