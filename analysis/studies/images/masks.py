"""Adversarial masks for a classifier, from its eigenvectors alone: no gradient, no image.

A column of the pseudoinverse of all classes' first eigenvectors is the smallest picture that
excites one of them by 1 and the others not at all; a class's mask is the sum over its own. A mask
against an image's own sign first *lowers* the square; each eigenvector is turned so that its pixels
have a positive sum, as ink has. Masked images are not clipped to the range of pixels.
"""

from collections.abc import Iterable

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.studies.images.data import Images
from analysis.studies.images.model import accuracy
from analysis.studies.images.spectra import ClassSpectra
from circuits.arguments import checked
from circuits.errors import ImageError, check_count, check_some

_N_EIGENVECTORS = 1  # of each class that a mask excites, or does not


@checked
def masks(spectra: ClassSpectra, n: int = _N_EIGENVECTORS) -> Float[Tensor, "class height width"]:
    """A picture of norm 1 for each class that pushes images towards it."""
    check_count("masks", n, None, "n")
    rows, owner = [], []
    for label, spectrum in enumerate(spectra.spectra):
        pictures = spectra.pictures(label)[spectrum.values > 0][:n].flatten(1)
        if not len(pictures):
            raise ImageError(
                f"masks: class {label} has no eigenvalue above zero, so no mask excites it. Use a "
                f"model that is trained on it."
            )
        total = pictures.sum(1, keepdim=True)
        rows.append(torch.where(total < 0, -pictures, pictures))
        owner += [label] * len(pictures)
    columns = torch.linalg.pinv(torch.cat(rows)).mT
    owners = torch.tensor(owner)
    found = torch.stack([columns[owners == label].sum(0) for label in range(len(rows))])
    model = spectra.model
    norms = torch.linalg.vector_norm(found, dim=1, keepdim=True)
    return (found / norms).reshape(-1, model.height, model.width)


@checked
def mask_curve(
    spectra: ClassSpectra,
    images: Images,
    strengths: Iterable[float],
    n: int = _N_EIGENVECTORS,
    seed: int = 0,
) -> pd.DataFrame:
    """The effect of each class's mask, at several norms, on the images of the *other* classes.

    ``accuracy`` is the share still classified correctly, ``fooled`` the share classified as the
    mask's class; ``…_control`` the same with the mask's own pixels in random order.
    """
    found = masks(spectra, n).flatten(1).to(images.pixels)
    strengths = check_some("mask_curve", strengths, "strengths")
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for label, mask in enumerate(found):
        others = images.of_classes([c for c in range(images.n_class) if c != label])
        shuffled = mask[torch.randperm(len(mask), generator=generator)]
        for strength in strengths:
            row: dict[str, float] = {"class": label, "strength": strength}
            for name, added in (("", mask), ("_control", shuffled)):
                logits = spectra.model(others.pixels + strength * added)
                row[f"accuracy{name}"] = accuracy(logits, others)
                row[f"fooled{name}"] = float((logits.argmax(1) == label).double().mean())
            rows.append({**row, "n": len(others)})
    return pd.DataFrame(rows)
