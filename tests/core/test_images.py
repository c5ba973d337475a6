"""Images of every size: shapes, numbers of parameters, and that the networks of earlier versions stay as they were."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import pytest
import torch

import polyvae as pv
from polyvae import InputError, Modality
from polyvae.core.networks import NETWORKS, auto
from polyvae.core.networks.images import ImageNetwork, grid


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_auto_gives_a_convolutional_network_for_every_image():
    """Of all sides from 8 to 256: what is built takes and gives images of that size. Shapes alone, without memory."""
    for side in range(8, 257):
        assert auto((1 + side % 4, side, 8 + side * 7 % 249)) == "conv"
    with torch.device("meta"):
        for side in (*range(9, 257, 41), 33, 65, 224):
            for shape in ((1 + side % 4, side, side), (3, side, 8 + side * 7 % 249)):
                network = NETWORKS["conv"]
                assert network.encoder(shape, 6, width=1 / 16)(torch.zeros(2, *shape)).shape == (2, 6)
                assert network.decoder((5,), shape, width=1 / 16)(torch.zeros(2, 5)).shape == (2, *shape)
    assert [auto(shape) for shape in ((3, 7, 8), (5, 64, 64), (64, 64, 3), (3, 64))] == ["mlp"] * 4


@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 33, 50), (3, 8, 200), (3, 65, 64), (2, 224, 224)])
def test_residual_networks_of_other_sizes(shape):
    with torch.device("meta"):
        network = NETWORKS["resnet"]
        assert network.encoder(shape, 6, width=1 / 16)(torch.zeros(2, *shape)).shape == (2, 6)
        assert network.decoder((5,), shape, width=1 / 16)(torch.zeros(2, 5)).shape == (2, *shape)


def test_what_is_halved():
    """At least 16 positions are left, and no further halving would leave as many; up to 32 pixels there are two halvings."""
    for height in range(1, 257, 3):
        for width in range(1, 257, 5):
            plan = grid("conv", (3, height, width))
            left, right, top, bottom = plan.margins
            assert (height + top + bottom, width + left + right) == tuple(
                size << plan.halvings for size in plan.coarse
            )
            assert 0 <= left <= right <= left + 1
            assert 0 <= top <= bottom <= top + 1
            assert bottom + top < 2**plan.halvings
            if max(height, width) > 32 and plan.halvings > 2:
                assert 16 <= height * width / 4**plan.halvings < 64
            else:
                assert plan.halvings == 2
    assert [grid("conv", (3, s, s)).halvings for s in (8, 32, 33, 64, 96, 128, 224, 256)] == [
        2, 2, 3, 4, 4, 5, 5, 6,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["conv", "resnet"])
@pytest.mark.parametrize("shape", [(1, 9, 14), (2, 33, 38)])
def test_every_pixel_is_seen_and_made(name, shape):
    """Padding adds pixels at the margin and cropping removes those, not others."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    x = torch.rand(4, *shape, requires_grad=True)
    network.encoder(shape, 3, width=1 / 2)(x).sum().backward()
    assert (x.grad != 0).any(0).all()
    decoder = network.decoder((4,), shape, width=1 / 8)
    whole = torch.nn.Sequential(*[layer for layer in decoder if not isinstance(layer, torch.nn.ZeroPad2d)])
    code = torch.randn(2, 4)
    left, right, top, bottom = grid(name, shape).margins
    inner = whole(code)[..., top : top + shape[1], left : left + shape[2]]
    torch.testing.assert_close(decoder(code), inner)
    assert (left + right, top + bottom) != (0, 0)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (3, 32, 12), (1, 4, 4)])
def test_small_images_keep_the_networks_of_earlier_versions(shape):
    """Names and shapes of all parameters, as bundles contain them."""
    coarse = 32 * (shape[1] // 4) * (shape[2] // 4)
    encoder = NETWORKS["conv"].encoder(shape, 7)
    decoder = NETWORKS["conv"].decoder((5,), shape)
    expected = {
        "0": (16, shape[0], 4, 4), "2": (32, 16, 4, 4), "5": (256, coarse), "7": (7, 256),
    }  # fmt: skip
    assert type(encoder) is type(decoder) is torch.nn.Sequential
    assert {key: tuple(x.shape) for key, x in encoder.state_dict().items() if key.endswith("weight")} == {
        f"{key}.weight": value for key, value in expected.items()
    }
    mirrored = {
        "0": (256, 5), "2": (coarse, 256), "5": (32, 16, 4, 4), "7": (16, shape[0], 4, 4),
    }  # fmt: skip
    assert {key: tuple(x.shape) for key, x in decoder.state_dict().items() if key.endswith("weight")} == {
        f"{key}.weight": value for key, value in mirrored.items()
    }


@pytest.mark.parametrize(
    ("name", "side", "encoder", "decoder"),
    [
        ("conv", 16, 156_784, 149_011),
        ("conv", 32, 550_000, 543_763),
        ("conv", 64, 714_032, 707_699),
        ("conv", 128, 976_304, 969_971),
        ("conv", 224, 2_057_648, 2_055_539),
        ("resnet", 32, 1_718_784, 1_210_563),
        ("resnet", 64, 3_292_672, 3_165_379),
        ("resnet", 128, 3_266_208, 3_138_915),
        ("resnet", 224, 2_619_888, 2_230_707),
    ],
)
def test_the_stated_numbers_of_parameters(name, side, encoder, decoder):
    """Those of the table in docs/networks.md: latents of 32, which the encoder gives a location and a scale."""
    with torch.device("meta"):
        network = NETWORKS[name]
        found = (
            parameters(network.encoder((3, side, side), 64)),
            parameters(network.decoder((32,), (3, side, side))),
        )
    assert found == (encoder, decoder)


def test_the_papers_network_for_birds():
    """MMVAE+ at 64 pixels: five halvings to 2 x 2, 64 -> 128 -> 256 -> 256 -> 256 -> 256 channels, 1,024 numbers before the heads."""

    def block(a, b):
        hidden = min(a, b)
        return 9 * a * hidden + hidden + 9 * hidden * b + b + (a * b if a != b else 0)

    with torch.device("meta"):
        found = parameters(NETWORKS["resnet"].encoder((3, 64, 64), 10, halvings=5))
    widths = [64, 128, 256, 256, 256, 256]
    blocks = block(64, 64) + sum(block(a, b) for a, b in pairwise(widths))
    assert found == 3 * 9 * 64 + 64 + blocks + 1024 * 10 + 10


def test_more_halvings_keep_the_variance():
    """The features of a deep network depend on its input from the start."""
    torch.manual_seed(0)
    encoder = NETWORKS["conv"].encoder((3, 64, 64), 4)
    assert isinstance(encoder, ImageNetwork)
    x = torch.randn(8, 3, 64, 64)
    features = torch.nn.Sequential(*list(encoder)[:9])(x)
    assert features.std(0).mean() > 0.1


@pytest.mark.parametrize(
    ("shape", "options", "problem"),
    [
        ((12,), {}, r"got shape \(12,\); expected \(channels, height, width\)"),
        ((3, 8, 8), {"halvings": 9}, "got halvings=9 for shape .*; expected at most 3"),
        ((3, 8, 8), {"halvings": 0}, "got halvings=0; expected a whole number"),
    ],
)
@pytest.mark.parametrize("name", ["conv", "resnet"])
def test_what_no_network_can_do(name, shape, options, problem):
    with pytest.raises(InputError, match=problem):
        NETWORKS[name].encoder(shape, 4, **options)


def test_a_model_of_large_images_takes_a_step():
    """As a user writes it; ``halvings`` reaches the networks from the specification."""
    specs = [
        Modality("photo", (3, 50, 64), params={"width": 0.1}),
        Modality("mask", (1, 40, 40), "bernoulli", network="conv", params={"halvings": 2, "width": 0.1}),
    ]
    model = pv.MMVAEPlus(specs, latent=2)
    batch = pv.Batch.of({"photo": torch.rand(3, 3, 50, 64), "mask": torch.ones(3, 1, 40, 40)})
    model(batch).value.mean().backward()
    assert all(p.grad is not None for net in model.modalities.values() for p in net.decoder.parameters())
    assert prod(model.generate(batch.observe("mask"))["photo"].shape[1:]) == 3 * 3 * 50 * 64
    assert len([x for x in model.modalities["mask"].encoder if isinstance(x, torch.nn.Conv2d)]) == 2
