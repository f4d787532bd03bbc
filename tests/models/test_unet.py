"""The network's size, what it is made of and the shapes it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ldmpir_edge.errors import UsageError
from ldmpir_edge.models.config import ModelConfig, preset
from ldmpir_edge.models.ldmpir import LdmPir, n_parameters
from ldmpir_edge.models.unet import UNet

EDGE_LAYERS = {nn.Conv2d, nn.Linear, nn.PixelShuffle, nn.SiLU}


def test_the_preset_holds_2_1_million_parameters():
    model = LdmPir(preset("ldmpir-2m"))
    assert 2.0e6 <= n_parameters(model) <= 2.2e6
    assert n_parameters(model) == sum(v.numel() for v in model.state_dict().values())


def test_frozen_parameters_are_not_counted(fresh):
    before = n_parameters(fresh)
    fresh.log_error.requires_grad_(False)
    assert n_parameters(fresh) == before - fresh.config.embedding - 1


def test_an_unknown_preset_is_named():
    with pytest.raises(UsageError, match=r"'ldmpir-9b'.*ldmpir-2m"):
        preset("ldmpir-9b")


@pytest.mark.parametrize(
    "entry", [{"width": (8,)}, {"n_cg": 0}, {"lambda_min": 0.0}, {"sigma_bridge": -0.1}]
)
def test_a_wrong_architecture_is_refused(entry):
    with pytest.raises(ValueError, match=next(iter(entry))):
        ModelConfig(**entry)


def test_the_network_is_made_of_edge_layers_only():
    leaves = {type(m) for m in LdmPir(preset("ldmpir-2m")).modules() if not list(m.children())}
    # A list of what is allowed: a normalisation or attention of any name fails.
    assert leaves <= EDGE_LAYERS


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 48, 32), (1, 16, 80)])
def test_the_unet_keeps_the_image_size(shape):
    batch, height, width = shape
    net = UNet(8, 2, (8, 8, 8, 8), 4)
    assert net(torch.randn(batch, 8, height, width), torch.randn(batch, 4)).shape == (
        batch,
        2,
        height,
        width,
    )


def test_a_fresh_unet_answers_zero():
    net = UNet(8, 2, (8, 8, 8, 8), 4)
    assert not net(torch.randn(1, 8, 32, 32), torch.randn(1, 4)).any()


def test_far_pixels_and_other_images_do_not_matter(model):
    """Without statistics over the image, only the receptive field counts."""
    net, embedding = model.unet, torch.randn(1, 8)
    x = torch.randn(1, net.stem.in_channels, 16, 512)
    changed = x.clone()
    changed[..., 500:] = 100.0
    assert torch.equal(net(x, embedding)[..., :100], net(changed, embedding)[..., :100])
    assert not torch.equal(net(x, embedding), net(changed, embedding))


def test_fine_detail_passes_by_the_coarse_levels():
    """With nothing coming up from below, only the skips carry the image to the head."""
    net = UNet(8, 2, (8, 8, 8, 8), 4)
    with torch.no_grad():
        nn.init.normal_(net.head[0].weight)
        for up in net.up:
            up[0].weight.zero_()
            up[0].bias.zero_()
        image, embedding = torch.randn(1, 8, 32, 32), torch.zeros(1, 4)
        assert not torch.allclose(net(image, embedding), net(2 * image, embedding), atol=0.1)
