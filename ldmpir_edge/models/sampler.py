"""The bridge between a classical estimate and the clean image, and its sampler."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor

from ldmpir_edge.errors import ShapeError, UsageError
from ldmpir_edge.models.ksm import normal_operator
from ldmpir_edge.models.ldmpir import LdmPir
from ldmpir_edge.physics.problem import Family

STEP_PRESETS = (1, 4, 8)


def bridge_state(x0: Tensor, x1: Tensor, t: Tensor, sigma: float, noise: Tensor) -> Tensor:
    """Draw x_t = (1−t) x0 + t x1 + σ √(t(1−t)) ε of the Brownian bridge.

    Source: Liu et al., "I2SB", ICML 2023; Delbracio and Milanfar, "InDI", TMLR 2023.
    """
    spread = sigma * (t * (1 - t)).sqrt()
    x_t: Tensor = (1 - t) * x0 + t * x1 + spread * noise
    return x_t


def schedule(n_steps: int, t_last: float) -> tuple[float, ...]:
    """Return the bridge times t_0 = 1 > … > t_N = 0, a geometric series down to `t_last`, then 0.

    Each step keeps the same share of the state before it. Evenly spaced times keep so much of x1
    that the last network pass still sees a quarter of its aliasing; these were better by 0.2 dB
    for multi-coil MRI at once, and let the steps build on each other.

    Raises
    ------
    UsageError
        `n_steps` is below 1.
    """
    if n_steps < 1:
        raise UsageError(f"the sampler needs at least one step, not {n_steps}")
    walk = (t_last ** (k / (n_steps - 1)) for k in range(1, n_steps))
    return (1.0, *walk, 0.0)


def iterations(step: int, n_steps: int, n_cg: int) -> int:
    """Return the conjugate-gradient iterations of a step: half a cosine from 0 to `n_cg`.

    The first answers are rough, and the data are met by the last. For 4 steps and an
    `n_cg` of 4 these are 0, 1, 3 and 4: better than 1, 2, 3 and 4, and two less.
    """
    if n_steps == 1:
        return n_cg
    share = (1 - math.cos(math.pi * step / (n_steps - 1))) / 2
    # Halves go down, on every machine: 2 · cos(π/3) need not be 1 to the last bit.
    return math.ceil(n_cg * share - 0.5 - 1e-9)


def sample(
    model: LdmPir,
    x1: Tensor,
    b: Tensor,
    noise_level: Tensor,
    condition: Tensor,
    family: Family,
    tables: Mapping[str, Tensor],
    n_steps: int,
    noise: Tensor | None = None,
) -> Tensor:
    """Walk the bridge from x1 to the reconstruction in `n_steps` steps.

    Parameters
    ----------
    x1, b
        `(B, 2, H, W)`.
    noise
        `(B, n_steps − 1, 2, H, W)` standard normal, or None for the deterministic mean. It is
        an input, so that a seed reproduces the image on every engine.

    Returns
    -------
        `(B, 2, H, W)`; the last step adds no noise.

    Raises
    ------
    UsageError
        `n_steps` is below 1.
    ShapeError
        `noise` is not one image for each step but the last.
    """
    times = schedule(n_steps, model.config.t_last)
    if noise is not None and noise.shape[1] != n_steps - 1:
        raise ShapeError(
            f"noise has shape {tuple(noise.shape)}; {n_steps} steps need {n_steps - 1} images"
        )
    # b − AᴴA x is linear in x, so that it follows the walk: AᴴA is applied to x1 alone. The noise
    # is left out, and the network sees how far the walk's mean is from the data.
    x, residual = x1, b - normal_operator(family, tables)(x1)
    for k, (t, s) in enumerate(pairwise(times)):
        n_cg = iterations(k, n_steps, model.config.n_cg)
        x0_hat, its_residual = model(
            x, t, x1, b, noise_level, condition, family, tables, residual, n_cg
        )
        x = x0_hat if s == 0 else (s / t) * x + (1 - s / t) * x0_hat
        residual = (s / t) * residual + (1 - s / t) * its_residual
        if noise is not None and s > 0:
            # The bridge pinned at x_t and x0_hat has variance σ² s(t−s)/t at time s.
            x = x + model.config.sigma_bridge * math.sqrt(s * (t - s) / t) * noise[:, k]
    return x
