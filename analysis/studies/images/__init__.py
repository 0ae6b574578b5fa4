"""The image case study: eigenvectors are pictures, and published numbers can be compared."""

from analysis.studies.images import masks, tree
from analysis.studies.images.components import component_truncation, shared_neurons
from analysis.studies.images.data import ImageData, Images, open_images
from analysis.studies.images.dictionaries import (
    agreement,
    read_through,
    train_dictionary,
    train_on_pairs,
)
from analysis.studies.images.masks import mask_curve
from analysis.studies.images.measurements import (
    dictionary_plan_for,
    matches,
    plan_for,
    regularisation,
)
from analysis.studies.images.model import ImageModel, accuracy, load_image_model
from analysis.studies.images.pictures import figure
from analysis.studies.images.png import encoded as png
from analysis.studies.images.spectra import (
    ClassSpectra,
    explanation,
    explanation_figure,
    first_sheet,
    form_similarity,
    rank_needed,
    truncation,
)
from analysis.studies.images.training import ImagePlan, train_classifier
from analysis.studies.images.tree import tree_curve

__all__ = [
    "ClassSpectra",
    "ImageData",
    "ImageModel",
    "ImagePlan",
    "Images",
    "accuracy",
    "agreement",
    "component_truncation",
    "dictionary_plan_for",
    "explanation",
    "explanation_figure",
    "figure",
    "first_sheet",
    "form_similarity",
    "load_image_model",
    "mask_curve",
    "masks",
    "matches",
    "open_images",
    "plan_for",
    "png",
    "rank_needed",
    "read_through",
    "regularisation",
    "shared_neurons",
    "train_classifier",
    "train_dictionary",
    "train_on_pairs",
    "tree",
    "tree_curve",
    "truncation",
]
