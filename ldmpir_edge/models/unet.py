"""A norm-free convolutional U-Net that starts at half the image size.

No normalisation and no attention: both cost two to three times on the edge engines, and a
network without statistics computes each image alone, so that padding and batch never leak.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL_AXES = 4
"""Of a convolution's kernel; every other parameter is a vector or a small matrix."""


class ResidualBlock(nn.Module):
    """Two convolutions on a modulated input, added to the stream.

    The modulation stands before the first convolution, so that on every engine convolution and
    activation, and convolution and sum, fuse.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        # Without normalisation, residual branches must start small for the sum to stay bounded.
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Map `(B, channels, h, w)` to the same shape.

        `modulation` `(B, 2 channels, 1, 1)` holds the gains, then the shifts.
        """
        # Constant bounds: chunk() would trace as shape arithmetic.
        n = self.conv1.in_channels
        hidden = torch.relu(self.conv1(x * modulation[:, :n] + modulation[:, n:]))
        out: Tensor = x + self.conv2(hidden)
        return out


class UNet(nn.Module):
    """Image-to-image network with skip sums.

    Parameters
    ----------
    in_channels, out_channels
        Planes at full resolution.
    widths
        Channels of each level; level k works at 1 / 2^(k+1) of the image size.
    embedding
        Channels of the conditioning vector.
    """

    def __init__(
        self, in_channels: int, out_channels: int, widths: tuple[int, ...], embedding: int
    ) -> None:
        super().__init__()
        # PixelUnshuffle and a 3×3 convolution, as one: the same function and as many weights,
        # without the five nodes that engines spend on moving pixels into channels.
        self.stem = nn.Conv2d(in_channels, widths[0], 6, stride=2, padding=2)
        pairs = list(pairwise(widths))
        self.encoder = nn.ModuleList(ResidualBlock(w, embedding) for w in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.middle = nn.ModuleList(ResidualBlock(widths[-1], embedding) for _ in range(2))
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(b, 4 * a, 1), nn.PixelShuffle(2)) for a, b in pairs
        )
        self.decoder = nn.ModuleList(ResidualBlock(w, embedding) for w in widths[:-1])
        self.head = nn.Sequential(
            nn.Conv2d(widths[0], 4 * out_channels, 3, padding=1), nn.PixelShuffle(2)
        )
        head = self.head[0]
        if isinstance(head, nn.Conv2d):
            nn.init.zeros_(head.weight)
            if head.bias is not None:
                nn.init.zeros_(head.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map `(B, in, H, W)` to `(B, out, H, W)`; H and W are multiples of 2^levels."""
        modulations = self._modulations(embedding)
        x = self.stem(x)
        skips: list[Tensor] = []
        for block, down in zip(self.encoder, self.down, strict=True):
            x = block(x, next(modulations))
            skips.append(x)
            x = down(x)
        for block in self.middle:
            x = block(x, next(modulations))
        for k in reversed(range(len(self.up))):
            x = self.decoder[k](self.up[k](x) + skips[k], next(modulations))
        out: Tensor = self.head(x)
        return out

    def _modulations(self, embedding: Tensor) -> Iterator[Tensor]:
        """Yield the modulation of each block in the order of use, from one product for all.

        One small product a block took engines 3 ms a slice, mostly in starting them.
        """
        blocks = [*self.encoder, *self.middle, *reversed(self.decoder)]
        layers = [block.modulation for block in blocks]
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        # The layers answer what a gain differs from 1 by.
        ones = [torch.arange(n) < n // 2 for n in (layer.out_features for layer in layers)]
        every = F.linear(embedding, weight, bias + torch.cat(ones))[:, :, None, None]
        first = 0
        for layer in layers:
            yield every[:, first : first + layer.out_features]
            first += layer.out_features
