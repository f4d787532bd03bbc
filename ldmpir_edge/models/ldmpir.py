"""LDM-PIR: one measurement-conditioned bridge step, with weights shared by all steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldmpir_edge.models.config import ModelConfig
from ldmpir_edge.models.ksm import data_consistency, krylov_features, normal_operator
from ldmpir_edge.models.unet import UNet
from ldmpir_edge.physics.problem import MODALITIES, TASKS, Family

NOISE_FLOOR = 1e-4
"""Noise levels below this are all "no noise" to the network."""
ERROR_START = 0.05
"""Error of the network's x̂0, in engine units, that λ is set for before training."""
ERROR_LIMITS = (1e-3, 1.0)
LAMBDA_MAX = 100.0
EXPONENT_START = 1.5
"""Of `contrast`, for MRI; the other tasks start without."""
EXPONENT_LIMIT = 3.0
TRUST_LIMIT = 4.0
"""Of the logarithm of what the network makes of λ at a pixel."""
FAINTEST = 0.05
"""Magnitudes below this, of an image whose bright end is 1, weigh alike."""
DARKEST = 1e-9
"""Light of a pixel without any, so that a black image has a mean, too."""


class LdmPir(nn.Module):
    """Predict the clean image from a bridge state, and make it consistent with the data.

    The network sees x_t, x1 and the Krylov vectors; it answers with a correction of x_t. The
    weight of that answer against the data is Bayes': λ = (noise level / error of x̂0)², the error
    being learned as a function of time, noise level and task. A λ learned freely had drifted to
    1 in training, where the data hardly count: it cost 1 dB.

    The error is taken to grow with the image's own brightness, by a power that is learned for
    each task: aliasing is then put back to the bright tissue that it came from. Without any
    training this gained 0.6 dB at R = 4, and 1.1 dB with more iterations in the later steps.

    Last, the network says for each pixel how much more or less than that it is sure of its answer:
    a third plane beside the two of the correction, the logarithm of a factor of λ. A λ that knows
    of the task alone was twice too large at R = 4, and too small in CT of few photons.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        n_conditions = 2 + len(TASKS) + len(MODALITIES)
        self.conditioning = nn.Sequential(
            nn.Linear(n_conditions, config.embedding),
            nn.SiLU(),
            nn.Linear(config.embedding, config.embedding),
            nn.SiLU(),
        )
        self.log_error = nn.Linear(config.embedding, 1)
        nn.init.zeros_(self.log_error.weight)
        nn.init.constant_(self.log_error.bias, math.log(ERROR_START))
        self.contrast = nn.Parameter(torch.zeros(len(TASKS) + len(MODALITIES)))
        with torch.no_grad():
            self.contrast[TASKS.index("mri")] = EXPONENT_START
        self.unet = UNet(4 + 2 * config.n_krylov, 3, config.widths, config.embedding)

    def forward(
        self,
        x_t: Tensor,
        t: float | Tensor,
        x1: Tensor,
        b: Tensor,
        noise_level: Tensor,
        condition: Tensor,
        family: Family,
        tables: Mapping[str, Tensor],
        residual: Tensor,
        n_cg: int,
    ) -> tuple[Tensor, Tensor]:
        """Return x0_hat after data consistency, and its residual b − AᴴA x0_hat.

        Parameters
        ----------
        x_t, x1, b
            `(B, 2, H, W)`: bridge state, classical estimate and Aᴴy.
        t
            Bridge time in (0, 1]; 1 is the classical estimate, near 0 the clean image.
        noise_level
            `(B,)`, measurement noise.
        condition
            `(B, 7)`, task and modality.
        family, tables
            The normal operator.
        residual
            `(B, 2, H, W)`, b − AᴴA x_t, of x_t without the bridge's noise.
        n_cg
            Conjugate-gradient iterations.
        """
        gram = normal_operator(family, tables)
        features = krylov_features(residual, gram, self.config.n_krylov)
        embedding = self.embed(t, noise_level, condition)
        correction, trust = self.correct(torch.cat([x_t, x1, *features], dim=1), embedding)
        # As rows of pixels: OpenVINO would else carry the network's layout, channels last, into
        # the physics, which then spends a fifth of its time on moving pixels about.
        x0_hat = (x_t.flatten(1) + correction.flatten(1)).reshape_as(x_t)
        lam = self.weight(x0_hat, trust, noise_level, embedding, condition)
        return data_consistency(x0_hat, b, lam, family, tables, n_cg)

    def correct(self, images: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's answer to all that it sees.

        Returns
        -------
            The correction of x_t, `(B, 2, H, W)`, and the trust in it, `(B, 1, H, W)`: the
            logarithm of a factor of λ.
        """
        answer: Tensor = self.unet(images, embedding)
        return answer[:, :2], answer[:, 2:]

    def weight(
        self,
        x0_hat: Tensor,
        trust: Tensor,
        noise_level: Tensor,
        embedding: Tensor,
        condition: Tensor,
    ) -> Tensor:
        """Return λ at each pixel, `(B, 1, H, W)`, of the network's answer and trust in it."""
        error = torch.clamp(torch.exp(self.log_error(embedding)), *ERROR_LIMITS)
        lam = self.config.lambda_min + (noise_level[:, None] / error) ** 2
        # Where the answer is bright is not for the gradient to change.
        seen = x0_hat.detach()
        magnitude = (seen**2).sum(dim=1, keepdim=True).sqrt()
        mean = F.avg_pool2d(magnitude, 3, stride=1, padding=1, count_include_pad=False)
        bright = torch.clamp(mean, min=FAINTEST)
        power = (condition * self.contrast).sum(dim=1).clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)
        share = torch.exp(-power[:, None, None, None] * torch.log(bright))
        # Its mean over the light of the image is 1, so that λ is what most tissue gets, whatever
        # the background that the field of view and the padding add.
        light = magnitude + DARKEST
        typical = (share * light).sum(dim=(1, 2, 3)) / light.sum(dim=(1, 2, 3))
        sure = torch.exp(torch.clamp(trust, -TRUST_LIMIT, TRUST_LIMIT))
        scaled = (lam / typical[:, None])[:, :, None, None] * share * sure
        return torch.clamp(scaled, max=LAMBDA_MAX)

    def embed(self, t: float | Tensor, noise_level: Tensor, condition: Tensor) -> Tensor:
        """Return the `(B, embedding)` conditioning of time, noise level and task."""
        # The level's logarithm, brought to about [-1, 1] between no noise and noise of one.
        level = 1 + torch.log10(noise_level + NOISE_FLOOR)[:, None] / 2
        # Evenly spread over the sampler's steps: 1 at the first, 0 at the last.
        log_t = math.log(t) if isinstance(t, float) else torch.log(t)
        time = (1 - log_t / math.log(self.config.t_last)) * torch.ones_like(level)
        out: Tensor = self.conditioning(torch.cat([time, level, condition], dim=1))
        return out


def n_parameters(model: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
