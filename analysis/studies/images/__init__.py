"""The image case study: eigenvectors are pictures, and published numbers can be compared.

`data` opens labelled images; `model` and `training` make a bilinear classifier of them; `spectra`
shows its eigenvectors, `components` and `tree` decompose it in other ways, `masks` attacks it,
`dictionaries` puts features between layer and head; `measurements` measures everything in one row.
"""

from analysis.studies.images.data import ImageData, Images, open_images
from analysis.studies.images.model import ImageModel, accuracy, load_image_model
from analysis.studies.images.spectra import ClassSpectra, explanation, truncation
from analysis.studies.images.training import ImagePlan, train_classifier

__all__ = [
    "ClassSpectra",
    "ImageData",
    "ImageModel",
    "ImagePlan",
    "Images",
    "accuracy",
    "explanation",
    "load_image_model",
    "open_images",
    "train_classifier",
    "truncation",
]
