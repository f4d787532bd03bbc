"""Total variation by FISTA, for any linear operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from peers.errors import library

TV_STEPS = 20
"""Steps of Chambolle's algorithm in each proximal map of TV."""

Operator = Callable[[np.ndarray], np.ndarray]


def fista_tv(
    forward: Operator,
    adjoint: Operator,
    y: np.ndarray,
    start: np.ndarray,
    squared_norm: float,
    *,
    lam: float,
    n_iterations: int,
    lowest: float = -np.inf,
) -> np.ndarray:
    """Minimise ½ ‖Ax − y‖²/‖A‖² + λ TV(x) over x ≥ `lowest`, from `start`; `(H, W)` float32.

    The proximal map of TV is scikit-image's `denoise_tv_chambolle`.

    Source: Beck and Teboulle, IEEE Trans. Image Process. 18(11), 2009.
    """
    prox = library("skimage.restoration").denoise_tv_chambolle
    step = np.float32(1 / squared_norm)
    x = ahead = start.astype(np.float32)
    t = 1.0
    for _ in range(n_iterations):
        gradient = adjoint(forward(ahead) - y)
        smooth = prox(ahead - step * gradient, weight=lam, eps=0, max_num_iter=TV_STEPS)
        before, x = x, np.maximum(smooth, lowest).astype(np.float32)
        t, t_before = (1 + np.sqrt(1 + 4 * t * t)) / 2, t
        ahead = x + np.float32((t_before - 1) / t) * (x - before)
    return x
