"""Small image sets as record sources: handwritten digits that need no network, and folders."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

SUFFIXES = (".png", ".npy")


@dataclasses.dataclass(frozen=True)
class Images:
    """Records `inputs` [H, W, C] float32 and `targets`, an int32 class.

    Attributes:
      images: [N, H, W, C] float32.
      labels: [N] int32.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": self.images[index], "targets": self.labels[index]}


def digits() -> tuple[Images, Images]:
    """Returns scikit-learn's 1,797 digits of 8 x 8 pixels in [-1, 1], to train on and held out.

    Every fifth digit is held out.
    """
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    images = (found.images[..., None] / 8 - 1).astype(np.float32)
    labels = found.target.astype(np.int32)
    held = np.arange(len(labels)) % 5 == 0
    return Images(images[~held], labels[~held]), Images(images[held], labels[held])


class ImageFolder:
    """Images in folders, one folder a class; classes are numbered in order of their names.

    Args:
      path: Holds a folder for each class, with `.png` files, or `.npy` arrays [H, W] or
        [H, W, C]; all images have one shape.

    Raises:
      ValueError: If there are no images.
    """

    def __init__(self, path: str | os.PathLike[str]):
        root = pathlib.Path(path)
        self.classes = sorted(p.name for p in root.iterdir() if p.is_dir())
        self._files = [
            (file, label)
            for label, name in enumerate(self.classes)
            for file in sorted((root / name).iterdir())
            if file.suffix in SUFFIXES
        ]
        if not self._files:
            raise ValueError(
                f"`path` must hold a folder of {' or '.join(SUFFIXES)} files for each class, but "
                f"{root} holds none. Give the folder above the classes."
            )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, label = self._files[index]
        if file.suffix == ".npy":
            image = np.load(file)
        else:
            from matplotlib import image as reader

            image = reader.imread(file)
        image = image[..., None] if image.ndim == 2 else image
        return {"inputs": np.asarray(image, np.float32), "targets": np.int32(label)}
