from .before_after import SystemScores, outcome, summarise
from .intervals import Interval, cluster_interval, cluster_means, holm, mean_interval, mean_p, paired_difference
from .plots import comparison_png, plot_learning_curve, sweep_png

__all__ = [
    "Interval",
    "SystemScores",
    "cluster_interval",
    "cluster_means",
    "comparison_png",
    "holm",
    "mean_interval",
    "mean_p",
    "outcome",
    "paired_difference",
    "plot_learning_curve",
    "summarise",
    "sweep_png",
]
