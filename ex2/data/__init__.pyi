from .labelled import LabelledImages
from .planted import PlantedImages
from .specs import list_datasets, load_images

__all__ = [
    "LabelledImages",
    "PlantedImages",
    "list_datasets",
    "load_images",
]
