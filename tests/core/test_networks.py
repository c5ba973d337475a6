"""Networks that are computed in another order than they are written in: the same values, the same gradients, the same parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from polyvae import Batch, InputError, Modality, build
from polyvae.core.likelihoods import LIKELIHOODS, NormalLikelihood
from polyvae.core.likelihoods.linear import distances, squares, squares_pay
from polyvae.core.modality import ModalityNet
from polyvae.core.networks import NETWORKS
from polyvae.core.networks.images import ImageNetwork, upsampled_conv
from polyvae.core.networks.mlp import LinearDecoder

pytestmark = pytest.mark.usefixtures("double")
EXACT = {"rtol": 1e-12, "atol": 1e-12}
IMAGE = (3, 12, 8)


def plain_block(weights, name, x):
    hidden = functional.conv2d(
        functional.leaky_relu(x, 0.2),
        weights[f"{name}.residual.1.weight"],
        weights[f"{name}.residual.1.bias"],
        padding=1,
    )
    out = functional.conv2d(
        functional.leaky_relu(hidden, 0.2),
        weights[f"{name}.residual.3.weight"],
        weights[f"{name}.residual.3.bias"],
        padding=1,
    )
    shortcut = weights.get(f"{name}.shortcut.weight")
    return (x if shortcut is None else functional.conv2d(x, shortcut)) + 0.1 * out


def plain_decoder(weights, code):
    channels = weights["2.residual.1.weight"].shape[1]
    x = functional.linear(code, weights["0.weight"], weights["0.bias"]).view(
        -1, channels, IMAGE[1] // 4, IMAGE[2] // 4
    )
    x = plain_block(weights, "2", x)
    for name in "46":
        x = plain_block(weights, name, functional.interpolate(x, scale_factor=2, mode="nearest"))
    return functional.conv2d(functional.leaky_relu(x, 0.2), weights["8.weight"], weights["8.bias"], padding=1)


def plain_encoder(weights, x):
    x = plain_block(weights, "1", functional.conv2d(x, weights["0.weight"], weights["0.bias"], padding=1))
    for name in "35":
        x = plain_block(weights, name, functional.avg_pool2d(x, 3, 2, 1))
    return functional.linear(x.flatten(1), weights["7.weight"], weights["7.bias"])


def gradients(out, inputs):
    return torch.autograd.grad((out * torch.linspace(-1, 2, out.numel()).view(out.shape)).sum(), inputs)


@pytest.mark.parametrize("rows", [None, 2])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_resnet_is_the_plain_form(kind, rows):
    """All rows at once, and two rows at a time."""
    if kind == "encoder":
        net, plain, x = (
            NETWORKS["resnet"].encoder(IMAGE, 5, width=1 / 16),
            plain_encoder,
            torch.randn(5, *IMAGE, requires_grad=True),
        )
    else:
        net, plain, x = (
            NETWORKS["resnet"].decoder((6,), IMAGE, width=1 / 16),
            plain_decoder,
            torch.randn(5, 6, requires_grad=True),
        )
    if rows is not None:
        net.largest = 2**25 // (rows * 8) - 1
    weights = dict(net.named_parameters())
    out, expected = net(x), plain(weights, x)
    torch.testing.assert_close(out, expected, **EXACT)
    torch.testing.assert_close(
        gradients(out, [x, *weights.values()]), gradients(expected, [x, *weights.values()]), **EXACT
    )


def test_stored_resnets_keep_their_names_and_shapes():
    decoder, encoder = (
        NETWORKS["resnet"].decoder((64,), (3, 28, 28)),
        NETWORKS["resnet"].encoder((3, 28, 28), 64),
    )
    block = ["residual.1.weight", "residual.1.bias", "residual.3.weight", "residual.3.bias"]
    assert list(decoder.state_dict()) == [
        "0.weight",
        "0.bias",
        *(f"2.{name}" for name in block),
        "2.shortcut.weight",
        *(f"4.{name}" for name in block),
        "4.shortcut.weight",
        *(f"6.{name}" for name in block),
        "8.weight",
        "8.bias",
    ]
    assert list(encoder.state_dict()) == [
        "0.weight",
        "0.bias",
        *(f"1.{name}" for name in block),
        *(f"3.{name}" for name in block),
        "3.shortcut.weight",
        *(f"5.{name}" for name in block),
        "5.shortcut.weight",
        "7.weight",
        "7.bias",
    ]
    assert tuple(decoder.state_dict()["4.residual.1.weight"].shape) == (64, 128, 3, 3)
    assert all(p.is_contiguous() for p in [*decoder.parameters(), *encoder.parameters()])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
def test_an_upsampled_convolution_is_a_convolution_after_upsampling(size):
    x, weight, bias = (
        torch.randn(2, 3, *size, requires_grad=True),
        torch.randn(4, 3, 3, 3, requires_grad=True),
        torch.randn(4),
    )
    out = upsampled_conv(x, weight, bias)
    expected = functional.conv2d(
        functional.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1
    )
    torch.testing.assert_close(out, expected, **EXACT)
    torch.testing.assert_close(gradients(out, [x, weight]), gradients(expected, [x, weight]), **EXACT)


def test_no_tensor_of_an_image_network_takes_32_megabytes():
    net = ImageNetwork(nn.Conv2d(1, 8, 1, bias=False), nn.ReLU(), largest=8 * 64 * 64).float()
    seen = []
    net[1].register_forward_hook(lambda module, given, out: seen.append(out))
    net(torch.rand(600, 1, 64, 64, dtype=torch.float32))
    assert [len(out) for out in seen] == [255, 255, 90]
    assert max(out.numel() * 4 for out in seen) < 2**25 <= 256 * 8 * 64 * 64 * 4


def test_what_the_last_layer_takes():
    decoder = NETWORKS["mlp"].decoder((4,), (2, 3), hidden=(7, 5), norm=True)
    code = torch.randn(6, 4)
    assert isinstance(decoder, LinearDecoder)
    torch.testing.assert_close(decoder.last(decoder(code, hidden=True)).view(6, 2, 3), decoder(code), **EXACT)


@pytest.mark.parametrize("picked", [False, True])
@pytest.mark.parametrize("scale", [0.3, "learned"])
@pytest.mark.parametrize(("family", "rows"), [("normal", 2), ("normal", 40), ("laplace", 2)])
def test_the_linear_form_is_the_plain_likelihood(family, rows, scale, picked):
    """Values and gradients, by residuals and by the Gram matrix; ``picked``: the codes belong to some rows of x, the second has none."""
    likelihood, last = LIKELIHOODS[family]((3, 5), scale), nn.Linear(3, 15)
    x = torch.randn(4, 3, 5, requires_grad=True)
    datum = torch.tensor([0, 3, 3, 2, 0]).repeat(rows) if picked else None
    hidden = torch.randn(*((5 * rows,) if picked else (rows, 2, 4)), 3, requires_grad=True)
    value = likelihood.log_prob_linear(hidden, last, x, datum)
    expected = likelihood.log_prob(last(hidden).unflatten(-1, (3, 5)), x if datum is None else x[datum])
    torch.testing.assert_close(value, expected, **EXACT)
    inputs = [hidden, x, *last.parameters(), *likelihood.parameters()]
    torch.testing.assert_close(gradients(value, inputs), gradients(expected, inputs), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("power", [1, 2])
def test_residuals_are_as_exact_under_autocast_as_the_plain_layer(power):
    last, datum = nn.Linear(20, 300).float(), torch.arange(8) % 4
    x, hidden = torch.randn(4, 300).float(), torch.randn(8, 20).float().requires_grad_()
    inputs = [hidden, *last.parameters()]
    exact = (x[datum] - last(hidden)).abs().pow(power).sum(-1)
    with torch.autocast("cpu", torch.bfloat16):
        value = distances(hidden, last, x, datum, power)
        plain = (x[datum] - last(hidden).float()).abs().pow(power).sum(-1)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, plain, rtol=1e-3, atol=0)
    ours, theirs, true = gradients(value, inputs), gradients(plain, inputs), gradients(exact, inputs)
    for mine, other, right in zip(ours, theirs, true, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - right).norm() <= 1.5 * (other - right).norm() + 1e-6 * right.norm()


def test_residuals_keep_one_array_as_wide_as_the_data():
    """Counted: what is kept for the backward pass, beside the inputs."""
    last, x, hidden = nn.Linear(4, 1000), torch.randn(6, 1000), torch.randn(30, 4, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        distances(hidden, last, x, torch.arange(30) % 6, 2)
    assert sorted(kept) == [(30,), (30, 4), (30, 1000), (1000, 4)]


def test_the_gram_form_keeps_its_digits():
    """In single precision and under autocast, with values in the thousands that vary by one and predictions that are good to a tenth."""
    likelihood, last = NormalLikelihood((500,), 0.1), nn.Linear(20, 500)
    hidden = 30 + torch.randn(50, 4, 20)
    hidden = hidden.bfloat16().double()  # so that autocast has nothing to round in it
    last.bias.data += 1000
    x = last(hidden.mean(0)).detach() + 0.1 * torch.randn(4, 500)
    exact = (last(hidden) - x).square().sum(-1)
    last, hidden, x, datum = last.float(), hidden.float().flatten(0, 1), x.float(), torch.arange(200) % 4
    with torch.autocast("cpu", torch.bfloat16):
        rounded = squares(hidden.bfloat16(), last, x, datum)
    torch.testing.assert_close(rounded.double(), exact.flatten(), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        likelihood.density(rounded.double(), 0.1, 500),
        likelihood.density(exact.flatten(), 0.1, 500),
        rtol=2e-5,
        atol=0,
    )
    assert torch.equal(rounded, squares(hidden, last, x, datum))


@pytest.mark.parametrize(
    ("features", "width", "rows"), [(400, 20, 1200), (400, 20, 60), (30, 200, 5000), (100, 10, 300)]
)
def test_the_gram_form_is_taken_where_it_halves_the_work(features, width, rows):
    """Counted, in the whole of a step; the decoder is called as a module, once."""
    data = 20
    net = ModalityNet(
        Modality("m", (features,), network="mlp", params={"hidden": (width,)}),
        seen=2,
        private=1,
        posterior="normal",
        scale="softplus",
    )
    calls = []
    net.decoder.register_forward_hook(lambda module, given, out: calls.append(out))
    x, code, datum = torch.randn(data, features), torch.randn(rows, 3), torch.arange(rows) % data
    with FlopCounterMode(display=False) as plain:
        expected = net.likelihood.log_prob(net.decode(code), x[datum])
        expected.sum().backward()
    with FlopCounterMode(display=False) as taken:
        value = net.log_prob(x, code, rows=datum)
        value.sum().backward()
    torch.testing.assert_close(value, expected, **EXACT)
    torch.testing.assert_close(net.log_prob(x, code.view(-1, data, 3)).flatten(), expected, **EXACT)
    assert len(calls) == 3
    pays = squares_pay(net.decoder.last, rows, data)
    small = (
        2 * 3 * (3 * width * rows) - 2 * 3 * width * rows
    )  # the first layer, whose input needs no gradient
    share = (taken.get_total_flops() - small) / (plain.get_total_flops() - small)
    assert share < 0.6 if pays else share == 1


@pytest.mark.parametrize("shape", [(28, 28, 1), (12, 40, 40), (1, 9, 9, 9)])
def test_a_flat_network_for_an_image_is_no_surprise(shape):
    with pytest.warns(
        UserWarning, match=r"network='auto' made a flat network of [\d,]+ parameters for samples of shape"
    ):
        build("vae", [Modality("x", shape)], latent=2)


def test_a_grey_image_without_channels_is_no_surprise():
    with pytest.warns(UserWarning, match=r"flat network for samples of shape \(28, 28\).*add a channel axis"):
        build("vae", [Modality("x", (28, 28))], latent=2)


@pytest.mark.filterwarnings("error")
def test_no_warning_where_a_network_was_chosen_or_fits():
    for spec in (
        Modality("x", (12, 20, 20), network="mlp"),
        Modality("x", (3, 16, 16)),
        Modality("x", (28, 28), network="mlp"),
        Modality("x", (20, 30), likelihood="categorical"),
        Modality("x", (4, 100)),
        Modality("x", (3, 64, 64), params={"width": 0.1}),
        Modality("x", (3, 33, 47), params={"width": 0.1}),
        Modality("x", (40, 2, 3)),
    ):
        build("vae", [spec], latent=2)


@pytest.mark.parametrize("length", [1, 3, 7, 8, 13, 32, 50])
def test_series_of_any_length_are_encoded_and_decoded(length):
    encoder = NETWORKS["series"].encoder((2, length), 5, width=1 / 8)
    decoder = NETWORKS["series"].decoder((5,), (2, length), width=1 / 8)
    x = torch.randn(3, 2, length, requires_grad=True)
    assert encoder(x).shape == (3, 5)
    assert bool((gradients(encoder(x), [x])[0] != 0).flatten(1).any(0).all())  # every step is read
    assert decoder(torch.randn(3, 5)).shape == (3, 2, length)


def test_the_padding_of_a_series_has_no_influence():
    """Lengths are entry masks: values behind the end of a series change neither the bound nor the latents."""
    torch.manual_seed(0)
    specs = [
        Modality("audio", (2, 12), network="series", entries=True, params={"width": 0.2}),
        Modality("n", 3),
    ]
    model = build("mmvae+", specs, latent=2)
    length = torch.tensor([12, 5, 1, 8])
    inside = (torch.arange(12) < length[:, None])[:, None].expand(4, 2, 12)
    x, n = torch.randn(4, 2, 12), torch.randn(4, 3)
    found = []
    for fill in (0.0, 7.0):
        batch = Batch.of({"audio": torch.where(inside, x, fill), "n": n}, entries={"audio": inside})
        torch.manual_seed(1)
        found.append((model(batch).value, model.embed(batch)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    with pytest.raises(InputError, match="network 'series': got shape"):
        build("mvae", [Modality("a", (3, 4, 4), network="series")])
