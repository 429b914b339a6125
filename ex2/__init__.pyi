from .analysis.judges.load import load_judge
from .analysis.pipeline import analyse
from .analysis.study import Study
from .base.errors import UserError
from .data.labelled import LabelledImages
from .data.specs import list_datasets, load_images
from .export.generator import DescriptionGenerator
from .policy.generation import generate
from .rl.ppo_config import PPOConfig
from .rl.ppo_trainer import PPOTrainer
from .scoring.bank import ImageBank, build_bank
from .scoring.scorer import TextScorer
from .texts.descriptions import Description, read_descriptions, write_descriptions
from .texts.pairs import PairText, PairTexts, read_pairs, write_pairs
from .vlm.base import VLM
from .vlm.specs import list_vlms, load_vlm
from .zero_shot.classification import classify, fudd

__all__ = [
    "Description",
    "DescriptionGenerator",
    "ImageBank",
    "LabelledImages",
    "PPOConfig",
    "PPOTrainer",
    "PairText",
    "PairTexts",
    "Study",
    "TextScorer",
    "UserError",
    "VLM",
    "analyse",
    "build_bank",
    "classify",
    "fudd",
    "generate",
    "list_datasets",
    "list_vlms",
    "load_images",
    "load_judge",
    "load_vlm",
    "read_descriptions",
    "read_pairs",
    "write_descriptions",
    "write_pairs",
]
