"""A norm-free convolutional U-Net that starts at half the image size.

No normalisation and no attention: both cost two to three times on the edge engines, and a
network without statistics computes each image alone, so that padding and batch never leak.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


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

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map `(B, channels, h, w)` to the same shape, given `(B, embedding)`."""
        # Constant bounds: chunk() would trace as shape arithmetic.
        n = self.conv1.in_channels
        both = self.modulation(embedding)[:, :, None, None]
        gain, shift = both[:, :n], both[:, n:]
        hidden = torch.relu(self.conv1(x * (1 + gain) + shift))
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
        x = self.stem(x)
        skips: list[Tensor] = []
        for block, down in zip(self.encoder, self.down, strict=True):
            x = block(x, embedding)
            skips.append(x)
            x = down(x)
        for block in self.middle:
            x = block(x, embedding)
        for k in reversed(range(len(self.up))):
            x = self.decoder[k](self.up[k](x) + skips[k], embedding)
        out: Tensor = self.head(x)
        return out
