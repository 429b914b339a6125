from .before_after import SystemScores, summarise
from .intervals import Interval, cluster_bootstrap_mean, cluster_means, holm, paired_difference, sign_flip_p
from .plots import comparison_png, plot_learning_curve, sweep_png

__all__ = [
    "Interval",
    "SystemScores",
    "cluster_bootstrap_mean",
    "cluster_means",
    "comparison_png",
    "holm",
    "paired_difference",
    "plot_learning_curve",
    "sign_flip_p",
    "summarise",
    "sweep_png",
]
