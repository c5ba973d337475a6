"""Image quality: distances between sets of features, against analytic values, definitions in loops and other implementations."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel
from torch import nn

from polyvae import InputError, Modality, MultimodalData, build
from polyvae.metrics import METRICS, Context, Judges, evaluate, generation
from polyvae.metrics.distances import (
    Frechet,
    Moments,
    TorchmetricsFrechet,
    discrepancy,
    frechet_distance,
    kernel_distance,
    neighbours,
)
from polyvae.metrics.features import (
    Handed,
    Inception,
    JudgeFeatures,
    load_feature_net,
    optional,
    to_bytes,
    torchmetrics_fid,
)
from polyvae.metrics.judge_training import Judge
from polyvae.metrics.quality import quality

# ---- Fréchet distance ------------------------------------------------------------------------------------------------------------


def with_moments(mean: np.ndarray, covariance: np.ndarray, seed: int = 0, count: int = 60) -> torch.Tensor:
    """Rows whose sample mean and unbiased covariance are exactly these."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(x.T).reshape(len(mean), -1)), x.T)
    return torch.as_tensor((np.linalg.cholesky(covariance) @ white).T + mean)


def moments(x: torch.Tensor, chunk: int = 7) -> Moments:
    found = Moments()
    for part in x.split(chunk):
        found.add(part)
    return found


def test_moments_that_come_in_chunks_are_those_of_the_whole():
    x = 100 + torch.randn(101, 5)
    found = moments(x)
    assert found.count == 101
    assert found.mean.numpy() == pytest.approx(x.double().numpy().mean(0), rel=1e-12)
    assert found.covariance.numpy() == pytest.approx(np.cov(x.double().numpy().T), rel=1e-9)


def test_two_normals_of_one_dimension():
    """(μ − ν)² + (σ − τ)²."""
    x, y = (
        with_moments(np.array([1.0]), np.array([[4.0]])),
        with_moments(np.array([-2.0]), np.array([[0.25]]), 1),
    )
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(3**2 + 1.5**2, rel=1e-9)


def test_two_normals_whose_covariances_share_their_axes():
    """|μ − ν|² + Σ (σ_i − τ_i)², in turned coordinates."""
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))[0]
    s, t, gap = np.array([0.5, 1, 2, 3]), np.array([2, 1.5, 0.1, 1]), np.array([1.0, 0, -2, 0.5])
    x = with_moments(np.zeros(4), turn * s**2 @ turn.T)
    y = with_moments(gap, turn * t**2 @ turn.T, 1)
    expected = (gap**2).sum() + ((s - t) ** 2).sum()
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(moments(y), moments(x)) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_by_the_matrix_square_root_of_scipy():
    x, y = torch.randn(80, 12).double() @ torch.randn(12, 12).double(), torch.randn(50, 12).double() + 0.3
    s, t = np.cov(x.numpy().T), np.cov(y.numpy().T)
    gap = (x.mean(0) - y.mean(0)).numpy()
    expected = gap @ gap + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-8)


def test_fewer_rows_than_columns_and_no_distance_to_oneself():
    x = torch.randn(20, 50)
    assert frechet_distance(moments(x), moments(x)) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(moments(x), moments(x + 2)) == pytest.approx(200, rel=1e-6)


def test_a_stream_forgets_what_was_generated_and_keeps_what_is_real():
    x, y = torch.randn(30, 4), 1 + 2 * torch.randn(40, 4)
    stream = Frechet()
    stream.real(x)
    for other in (y, x):
        for part in other.split(9):
            stream.generated(part)
        assert stream.value() == pytest.approx(frechet_distance(moments(x), moments(other)), abs=1e-9)
        stream.forget()


# ---- kernel distance -------------------------------------------------------------------------------------------------------------


def test_the_discrepancy_by_its_definition():
    x, y = torch.randn(9, 3).double(), 0.5 + torch.randn(7, 3).double()

    def kernel(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    expected = (
        sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (9 * 8)
        + sum(kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (7 * 6)
        - 2 * sum(kernel(a, b) for a in x for b in y) / (9 * 7)
    )
    assert float(discrepancy(x, y)) == pytest.approx(expected, rel=1e-12)


def test_the_discrepancy_by_the_kernel_of_scikit_learn():
    x, y = torch.randn(40, 6).double(), 0.2 + torch.randn(40, 6).double()
    of_x, of_y, cross = (
        polynomial_kernel(a, b, degree=3, gamma=1 / 6, coef0=1) for a, b in ((x, x), (y, y), (x, y))
    )
    expected = (of_x.sum() - np.trace(of_x) + of_y.sum() - np.trace(of_y)) / (40 * 39) - 2 * cross.mean()
    assert float(discrepancy(x, y)) == pytest.approx(expected, rel=1e-10)


def test_the_discrepancy_is_unbiased():
    """Over all subsets of a population the mean is the population's own, exactly; and it can be negative."""
    x, y = torch.randn(6, 2).double(), 1 + torch.randn(6, 2).double()
    pairs = [[i, j] for i in range(6) for j in range(i)]
    found = torch.stack([discrepancy(x[a], y[b]) for a in pairs for b in pairs])
    assert float(found.mean()) == pytest.approx(float(discrepancy(x, y)), rel=1e-10)
    assert found.min() < 0


def test_kernel_distance_is_the_mean_and_spread_over_subsets():
    x, y = torch.randn(50, 4), 0.5 + torch.randn(60, 4)
    whole = kernel_distance(x[:50], y[:50], subsets=3, size=1000)
    assert whole.mean == pytest.approx(float(discrepancy(x, y[:50])), rel=1e-9)
    assert whole.std == 0
    some = kernel_distance(x, y, subsets=400, size=20, seed=1)
    assert some == kernel_distance(x, y, subsets=400, size=20, seed=1)
    assert abs(some.mean - float(discrepancy(x, y))) < 5 * some.std / 20


# ---- precision, recall, density, coverage ----------------------------------------------------------------------------------------


def by_definition(x: np.ndarray, y: np.ndarray, k: int, k_density: int) -> tuple[float, ...]:
    def ball(points, i, k):
        return sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)[k - 1]

    def within(points, i, k, other):
        return np.linalg.norm(points[i] - other) <= ball(points, i, k)

    precision = np.mean([any(within(x, i, k, b) for i in range(len(x))) for b in y])
    recall = np.mean([any(within(y, j, k, a) for j in range(len(y))) for a in x])
    density = np.mean([sum(within(x, i, k_density, b) for i in range(len(x))) / k_density for b in y])
    coverage = np.mean([any(within(x, i, k_density, b) for b in y) for i in range(len(x))])
    return precision, recall, density, coverage


@pytest.mark.parametrize("numbers", [2**23, 40])
def test_neighbours_by_their_definition_in_any_chunks(monkeypatch, numbers):
    monkeypatch.setitem(neighbours.__globals__, "_NUMBERS", numbers)
    x, y = torch.randn(30, 3).double(), 0.8 + 0.6 * torch.randn(25, 3).double()
    assert neighbours(x, y) == pytest.approx(by_definition(x.numpy(), y.numpy(), 3, 5))


def test_a_set_covers_itself_and_density_counts_on_average_one_ball_too_many():
    """Every ball holds the k nearest and its own centre."""
    x = 50 + torch.randn(200, 8)
    found = neighbours(x, x)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx(6 / 5)


def test_sets_far_apart_share_nothing_and_a_collapsed_one_is_precise_without_recall():
    x = torch.randn(100, 4)
    assert neighbours(x, x + 1000) == (0, 0, 0, 0)
    collapsed = neighbours(x, x[:1] + 1e-4 * torch.randn(100, 4))
    assert collapsed.precision == 1
    assert collapsed.recall <= 0.01
    assert collapsed.coverage <= 0.2


def test_an_outlier_fools_precision_and_not_density():
    """Naeem et al. 2020, figure 2: far from all but one of the real rows, yet inside that one's ball."""
    x = torch.cat([torch.randn(99, 2), torch.tensor([[100.0, 0]])])
    y = torch.tensor([[100.0, 1.0]]).repeat(50, 1) + 0.01 * torch.randn(50, 2)
    found = neighbours(x, y)
    assert found.precision == 1
    assert found.density == pytest.approx(1 / 5)


def test_numbers_agree_with_prdc():
    prdc = pytest.importorskip("prdc", reason="prdc, the authors' package, is not installed")
    x, y = torch.randn(150, 6), 0.3 + 0.9 * torch.randn(120, 6)
    found, known = neighbours(x, y, 5, 5), prdc.compute_prdc(x.numpy(), y.numpy(), 5)
    assert found._asdict() == pytest.approx(known)


# ---- feature nets ----------------------------------------------------------------------------------------------------------------


def needs(*packages: str) -> None:
    """Not by importing them: without torchvision they can be imported as ``optional`` does it, and not otherwise."""
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")


class Small(nn.Module):
    """A fixed convolution, a square, means over quadrants: 12 features, not linear in the image."""

    name = "small"
    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("weight", torch.randn(3, 3, 3, 3, generator=generator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = nn.functional.conv2d(images, self.weight.to(images)).square()
        return nn.functional.adaptive_avg_pool2d(seen, 2).flatten(1)


def test_torchmetrics_with_an_extractor_handed_in_agrees_with_our_own():
    needs("torchmetrics")
    real, made, net = torch.rand(120, 3, 8, 8), torch.rand(90, 3, 8, 8) ** 2, Small()
    expected = frechet_distance(moments(net(real)), moments(net(made)))
    for extractor in (net, Handed(net, 12)):
        metric = torchmetrics_fid(extractor)
        for part in real.split(50):
            metric.update(part.double(), real=True)
        for part in made.split(50):
            metric.update(part.double(), real=False)
        assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)
    stream = TorchmetricsFrechet(12)
    stream.real(net(real))
    for other in (real, made):
        stream.generated(net(other))
        assert stream.value() == pytest.approx(
            frechet_distance(moments(net(real)), moments(net(other))), rel=1e-6, abs=1e-6
        )
        stream.forget()


def test_kernel_distance_agrees_with_torchmetrics():
    needs("torchmetrics")
    real, made, net = torch.rand(60, 3, 8, 8).double(), torch.rand(60, 3, 8, 8).double() ** 2, Small()
    metric = optional("torchmetrics.image.kid").KernelInceptionDistance(net, subsets=2, subset_size=60)
    metric.update(real, real=True)
    metric.update(made, real=False)
    mean, std = metric.compute()
    found = kernel_distance(net(real), net(made), subsets=2)
    assert found.mean == pytest.approx(float(mean), rel=1e-8)
    assert found.std == pytest.approx(float(std), abs=1e-10)


@pytest.fixture(scope="module")
def port():
    needs("torchmetrics", "torch_fidelity")
    return optional("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def weights(port, tmp_path_factory):
    """The port's network with random weights, in a file that does not bear the standard name."""
    net = port.FeatureExtractorInceptionV3.__new__(port.FeatureExtractorInceptionV3)
    with (
        patch.object(port, "load_state_dict_from_url", side_effect=RuntimeError),
        pytest.raises(RuntimeError),
    ):
        net.__init__("inception", ["2048"])
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(net.state_dict(), path)
    return path


def test_inception_reads_bytes_of_one_or_three_channels_and_is_standard_by_its_file(weights, tmp_path):
    net = Inception(weights)
    assert (net.standard, net.name) == (False, "inception:random")
    images = torch.rand(2, 1, 8, 8)
    (expected,) = net.net(to_bytes(images).expand(-1, 3, -1, -1))
    assert torch.equal(net(images), expected)
    standard = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    standard.symlink_to(weights)
    assert Inception(standard).standard
    assert Inception(standard).digest == net.digest
    assert load_feature_net(f"inception:{weights}").name == net.name
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


class Command:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_nothing_in_a_file_of_weights_can_run(port, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Command()}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"bad\.pth: cannot be read"):
        Inception(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


def test_a_judge_s_features_are_what_its_last_layer_sees():
    judge = Judge.seeded((3, 16, 16), 10, 8, 0).eval()
    net, images = JudgeFeatures(judge, "m0"), torch.rand(5, 3, 16, 16)
    assert net.name == "judge:m0"
    assert torch.equal(judge.head(net(images)), judge(images))
    assert net(images.double()).shape == (5, 256)


def test_bytes_are_rounded_and_clamped():
    x = torch.tensor([-1, 0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1, 7])
    assert to_bytes(x).tolist() == [0, 0, 0, 1, 255, 255, 255]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda path: Inception(path / "none.pth"),
            ["no such file", "weights-inception-2015-12-05-6726825d.pth", "download it to this path"],
        ),
        (lambda path: load_feature_net("inception"), ["features='inception'", "'inception:PATH'"]),
        (
            lambda path: optional("torchmetrics.nothing_so_named"),
            ["torchmetrics cannot be imported", "pip install --no-deps torch-fidelity"],
        ),
    ],
)
def test_what_is_not_there_gets_one_line(make, words, tmp_path):
    with pytest.raises(InputError) as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


# ---- the metric ------------------------------------------------------------------------------------------------------------------

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def data():
    """Two kinds of images of two classes, and a vector; one image of ten is missing."""
    draws = torch.Generator().manual_seed(1)
    count = 900
    labels = torch.arange(count) % 2
    mask = torch.rand(3, count, generator=draws) < 0.9
    mask[2] = True
    images = {
        name: (0.3 * torch.rand(count, 3, 8, 8, generator=draws) + 0.4 * labels[:, None, None, None])
        for name in ("a", "b")
    }
    return MultimodalData(
        {**images, "c": torch.randn(count, 4, generator=draws)},
        mask=mask,
        labels=labels,
        splits={"train": range(300), "test": range(300, 900)},
    )


@pytest.fixture(scope="module")
def model(data):
    torch.manual_seed(2)
    return build("mmvae+", data.modalities(private=2), latent=3).eval()


def context(model, data, **options):
    return Context.of(model, data.test, feature_net=Small(), train=data.train, draws=350, **options)


def images_of(data, name, rows=slice(None)):
    return data.values(name)[data.mask[data.names.index(name)]][rows]


def test_quality_compares_what_it_says(data, model):
    """Recomputed from the images: which are compared, that they are as they were generated, means over modalities and over pairs of two."""
    made = context(model, data, batch_size=100)
    found = quality(made, subsets=2, subset_size=100)
    cells = found["quality"]["conditional"]
    assert {source: set(row) for source, row in cells.items()} == {"a": {"b"}, "b": {"a"}, "c": {"a", "b"}}
    seen = {name: int(data.test.mask[data.names.index(name)].sum()) for name in NAMES}
    for source, row in cells.items():
        for target, cell in row.items():
            assert (cell["images"], cell["real_images"]) == (seen[source], seen[target])
    values = [cell["frechet_distance"] for row in cells.values() for cell in row.values()]
    assert found["conditional_frechet_distance"] == pytest.approx(sum(values) / 4)
    by = found["quality"]["unconditional"]
    assert found["unconditional_coverage"] == pytest.approx((by["a"]["coverage"] + by["b"]["coverage"]) / 2)
    assert found["quality_settings"]["features"] == {"a": "small", "b": "small"}
    net = Small()
    drawn = torch.cat(
        [x["a"] for x in generation.unconditional(made, None, made.seed("quality/unconditional", 0))]
    )
    assert len(drawn) == by["a"]["images"] == 350
    stream = moments(net(drawn))
    assert by["a"]["frechet_distance"] == pytest.approx(
        frechet_distance(moments(net(images_of(data.test, "a"))), stream), rel=1e-6
    )


class Constant(nn.Module):
    """Decoder: one value for every pixel. Encoder: zeros."""

    def __init__(self, value: float, shape: int | tuple[int, ...]) -> None:
        super().__init__()
        self.value, self.shape = (
            nn.Parameter(torch.tensor(value)),
            shape if isinstance(shape, tuple) else (shape,),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value.expand(len(x), *self.shape)


class Pixels:
    """The mean of the left and of the right half."""

    name = "pixels"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([images[..., :4].flatten(1).mean(1), images[..., 4:].flatten(1).mean(1)], 1)


def world_of(low: float, high: float, made: float):
    """Grey images between two values, and a model that generates one grey."""
    grey = low + (high - low) * torch.rand(200, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    data = MultimodalData(
        dict.fromkeys("ab", grey.expand(-1, 1, 8, 8)),
        labels=torch.arange(200) % 2,
        splits={"train": range(100), "test": range(100, 200)},
    )
    specs = [
        Modality(
            name,
            (1, 8, 8),
            encoder=lambda shape, out: Constant(0.0, out),
            decoder=lambda shape, out: Constant(made, out),
        )
        for name in "ab"
    ]
    return build("mmvae", specs, latent=2).eval(), data


@pytest.mark.parametrize(("low", "high", "made"), [(-1, 0, -5.0), (0, 255, 128.0), (0, 1, 2.0)])
def test_features_are_those_of_what_was_generated(low, high, made):
    """Whatever the range of the data: a constant is farther from the real images than these are from one another."""
    model, data = world_of(low, high, made)
    judges = Judges(
        {name: Judge.seeded((1, 8, 8), 2, 4, 0) for name in "ab"}, torch.arange(2), {}, None, "none", 0
    )
    for net in (Pixels(), None):
        found = quality(
            Context.of(
                model, data.test, judges, train=data.train, feature_net=net, draws=100, measures="frechet"
            )
        )
        assert found["unconditional_frechet_distance"] > 5 * found["real_frechet_distance"]
    x = data.test.values("a").mean((1, 2, 3)).double()
    exact = 2 * (
        (x.mean() - made) ** 2 + x.var()
    )  # of two equal features; those of a constant have no variance
    found = quality(Context.of(model, data.test, feature_net=Pixels(), draws=100, measures="frechet"))
    assert found["unconditional_frechet_distance"] == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize(("low", "high", "fits"), [(0, 1, True), (-1, 0, False), (0, 255, False)])
def test_bytes_need_images_between_0_and_1(low, high, fits):
    """Clamped to them, other images would be equal whatever was generated: left out with one line."""
    model, data = world_of(low, high, 0.5)
    found = evaluate(
        model,
        data,
        metrics=["quality"],
        protocol="published",
        feature_net=Pixels(),
        fitted_prior={"components": 0},
        draws=20,
        show=False,
    )
    assert ("quality" in found) is fits
    assert "clamped to [0, 1]" in found["protocol"]["pixels"]
    assert [note.partition(":")[0] for note in found["notes"]] == (
        [] if fits else ["image quality of 'a'", "image quality of 'b'"]
    )
    if not fits:
        assert "values from" in found["notes"][0]
        assert "need them in [0, 1]" in found["notes"][0]


def test_the_floor_is_of_training_images_chosen_at_random(data, model):
    """A part may be sorted by class: its first images are then of one class."""
    order = torch.argsort(data.train.labels, stable=True)
    whole = data.train.rows(order.repeat_interleave(4))  # 1200 rows, 600 of either class
    settled = Context.of(
        model, data.test.rows(slice(0, 300)), feature_net=Pixels(), train=whole, draws=20, measures="frechet"
    )
    both = data.test.values("a").flatten(1).mean(1).double()
    assert quality(settled)["quality"]["real"]["a"]["frechet_distance"] < 0.01 * float(both.var())


def test_the_frechet_distance_alone_is_that_of_all_measures(data, model):
    alone, whole = (
        quality(context(model, data, measures="frechet")),
        quality(context(model, data), subsets=2, subset_size=100),
    )
    numbers = {name for name, value in alone.items() if isinstance(value, float)}
    assert numbers == {name for name in whole if name.endswith("frechet_distance")}
    assert all(alone[name] == whole[name] for name in numbers)


def test_the_training_part_is_near_and_the_untrained_model_far(data, model):
    found = quality(context(model, data), subsets=5, subset_size=200)
    assert found["real_frechet_distance"] < 0.05 * found["unconditional_frechet_distance"]
    assert abs(found["real_kernel_distance"]) < 0.05 * found["unconditional_kernel_distance"]
    assert found["real_precision"] > 0.8 > found["unconditional_precision"]
    assert found["quality"]["real"]["a"]["images"] == int(data.train.mask[0].sum())


def test_the_published_protocol_counts_the_diagonal_drops_a_partial_batch_and_sees_bytes(data, model):
    made = context(model, data, protocol="published")
    found = quality(made, subsets=2, subset_size=100)
    cells = found["quality"]["conditional"]
    assert {source: set(row) for source, row in cells.items()} == {name: {"a", "b"} for name in NAMES}
    assert found["conditional_frechet_distance"] == pytest.approx(
        sum(cell["frechet_distance"] for row in cells.values() for cell in row.values()) / 6
    )
    assert {cell["images"] for row in cells.values() for cell in row.values()} == {512}
    assert found["quality"]["unconditional"]["a"]["images"] == 256
    net = Small()
    seen = moments(net(to_bytes(images_of(data.test, "a", slice(512))) / 255))
    drawn = torch.cat(
        [x["a"] for x in generation.unconditional(made, None, made.seed("quality/unconditional", 0))]
    )[:256]
    assert found["quality"]["unconditional"]["a"]["frechet_distance"] == pytest.approx(
        frechet_distance(seen, moments(net(to_bytes(drawn) / 255))), rel=1e-6
    )


def test_judges_look_at_their_own_modality(data, model):
    judges = Judges(
        {name: Judge.seeded((3, 8, 8), 2, 4, 0) for name in ("a", "b")},
        torch.arange(2),
        {},
        math.nan,
        "none",
        0,
    )
    found = quality(Context.of(model, data.test, judges, draws=50), subsets=1, subset_size=20)
    assert found["quality_settings"]["features"] == {"a": "judge:a", "b": "judge:b"}
    assert "real" not in found["quality"]


@pytest.mark.slow
def test_only_the_standard_weights_make_an_fid(weights, tmp_path):
    standard = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    standard.symlink_to(weights)
    x = torch.rand(24, 1, 8, 8)
    data = MultimodalData(
        {"x": x, "y": torch.rand(24, 2)}, splits={"train": range(12), "test": range(12, 24)}
    )
    model = build("mmvae", data.modalities(), latent=2).eval()
    for path, names in ((weights, ("frechet_distance", "kernel_distance")), (standard, ("fid", "kid"))):
        net = Inception(path)
        found = quality(Context.of(model, data.test, draws=12, feature_net=net), subsets=1)
        cell = found["quality"]["unconditional"]["x"]
        assert {key for key in cell if key.endswith(("fid", "kid", "distance"))} == set(names)
        assert found["quality_settings"]["weights_sha256"] == net.digest
        assert found[f"unconditional_{names[0]}"] == cell[names[0]]


def test_evaluate_takes_all_metrics_and_says_by_which_protocol(data, model):
    found = evaluate(
        model,
        data.test.rows(slice(0, 60)),
        metrics=["quality"],
        train=data.train,
        fitted_prior={"components": 2},
        draws=20,
        feature_net=Small(),
        protocol="published",
        show=False,
    )
    assert found["protocol"]["name"] == "published"
    assert found["protocol"]["quality_pairs"].startswith("all")
    assert "unconditional_frechet_distance_fitted" in found.headline()
    assert {"quality", "reconstruction"} <= set(METRICS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "authors"}, ["protocol: got 'authors'", "'sound'", "'published'"]),
        ({"features": "mobilenet"}, ["features='mobilenet'", "'judges'"]),
        ({"metrics": ["qualty"]}, ["did you mean 'quality'"]),
    ],
)
def test_a_wrong_word_gets_one_line(data, model, options, words):
    with pytest.raises(InputError) as caught:
        evaluate(model, data, show=False, **options)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_net_that_gives_no_table_is_refused(data, model):
    class Flat:
        name = "flat"

        def __call__(self, images):
            return images

    with pytest.raises(InputError, match=r"'flat': got features of shape \(\d+, 3, 8, 8\)"):
        quality(Context.of(model, data.test, feature_net=Flat(), draws=20))
