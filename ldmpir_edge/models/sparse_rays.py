"""The fan beam's normal operator for training, where nothing has to be an ONNX operator."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor


def gram_rays_sparse(x: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
    """Apply `gram_rays` to one image `(1, 2, H, W)` by products with sparse matrices.

    Its tables are the matrices' rows already, so nothing is copied. On one core it takes a tenth
    of the time of gathering (0.05 s for 0.47 s, 256 x 256 from 60 views).
    """
    image = x[:, 0]
    edge = torch.zeros_like(image[..., :1])
    rows = torch.cat([edge, image, edge], dim=-1)
    columns = torch.cat([edge, image.mT, edge], dim=-1)
    flat = torch.cat([rows, columns], dim=-2).reshape(-1)
    index, fraction = tables["forward_index"], tables["forward_fraction"]
    near = _product(index, 1 - fraction, flat[:-1])
    far = _product(index, fraction, flat[1:].contiguous())
    kernel = tables["filter"]
    views = ((near + far) * tables["forward_weight"]).reshape(-1, kernel.shape[0])
    filtered = (views @ kernel).reshape(-1)
    padded = torch.cat([filtered, torch.zeros_like(filtered[:1])])
    pixels = _product(tables["adjoint_index"], tables["adjoint_weight"], padded)
    real = pixels.reshape_as(image)
    return torch.stack([real, torch.zeros_like(real)], dim=1)


def _product(index: Tensor, weight: Tensor, vector: Tensor) -> Tensor:
    """Return Σ_k weight[:, k] · vector[index[:, k]]."""
    n_rows, width = index.shape
    bounds = torch.arange(0, index.numel() + 1, width, dtype=index.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(
            bounds,
            index.reshape(-1),
            weight.reshape(-1),
            (n_rows, vector.numel()),
            check_invariants=False,
        )
    return torch.mv(matrix, vector)
