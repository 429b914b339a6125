from .guards import GuardedRollouts, TrainingDiverged
from .kl_control import KLController
from .objectives import (
    clipped_policy_loss,
    clipped_value_loss,
    explained_variance,
    gae,
    kl_k1,
    kl_k3,
    leave_one_out,
    masked_mean,
    masked_whiten,
    shaped_rewards,
)
from .ppo_config import PPOConfig
from .ppo_trainer import PPOTrainer
from .resume import ExactResume
from .rollout import Rollout, Texts
from .value_head import ValueHead, attach_value_head

__all__ = [
    "ExactResume",
    "GuardedRollouts",
    "KLController",
    "PPOConfig",
    "PPOTrainer",
    "Rollout",
    "Texts",
    "TrainingDiverged",
    "ValueHead",
    "attach_value_head",
    "clipped_policy_loss",
    "clipped_value_loss",
    "explained_variance",
    "gae",
    "kl_k1",
    "kl_k3",
    "leave_one_out",
    "masked_mean",
    "masked_whiten",
    "shaped_rewards",
]
