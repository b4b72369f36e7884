"""Other UMAPs that run in torch or on a GPU, where they are installed: TorchDR and cuML. Each does all of its own."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

EPOCHS, NEIGHBOURS, MIN_DIST = 200, 15, 0.1
Rival = Callable[[np.ndarray, int], np.ndarray]  # rows (n, d) of length 1, seed -> picture (n, 2)


def torch_dr(device: str) -> Rival:
    """TorchDR's UMAP; rows have length 1, so that its squared distances order neighbours as the cosine does."""
    import torchdr

    def place(points: np.ndarray, seed: int) -> np.ndarray:
        model = torchdr.UMAP(
            n_neighbors=NEIGHBOURS, min_dist=MIN_DIST, max_iter=EPOCHS, random_state=seed, device=device, backend=None
        )
        return np.asarray(model.fit_transform(points), np.float32)

    return place


def cu_ml(_device: str) -> Rival:
    """UMAP of cuML, on its GPU."""
    import cuml

    def place(points: np.ndarray, seed: int) -> np.ndarray:
        model = cuml.manifold.UMAP(
            n_neighbors=NEIGHBOURS, min_dist=MIN_DIST, n_epochs=EPOCHS, random_state=seed, metric="cosine"
        )
        return np.asarray(model.fit_transform(points), np.float32)

    return place


def installed(device: str) -> dict[str, Rival]:
    """Those that this machine has, by name."""
    found = {"TorchDR": torch_dr(device)} if find_spec("torchdr") else {}
    return found | ({"cuML": cu_ml(device)} if device != "cpu" and find_spec("cuml") else {})
