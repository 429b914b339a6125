from .build import build_rewards, check_rewards, list_rewards
from .monitors import hub_score, monitor, variety
from .normalization import RewardStats
from .quality import QUALITY_REWARDS
from .similarity import SIMILARITY_REWARDS, raw_rewards, similarity_reward

__all__ = [
    "QUALITY_REWARDS",
    "RewardStats",
    "SIMILARITY_REWARDS",
    "build_rewards",
    "check_rewards",
    "hub_score",
    "list_rewards",
    "monitor",
    "raw_rewards",
    "similarity_reward",
    "variety",
]
