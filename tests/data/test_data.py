"""MultimodalData and the loaders: laws of rows, masks, splits and order."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from polyvae.core.batch import Batch
from polyvae.core.modality import Modality
from polyvae.data import DATASETS, MultimodalData, SliceLoader, StreamLoader, load_dataset, mix
from polyvae.utils.errors import InputError
from polyvae.utils.seeds import bits, permutation

N = 60


@pytest.fixture
def arrays():
    draws = torch.Generator().manual_seed(0)
    return {
        "rna.counts": torch.randn(N, 4, generator=draws),
        "image": torch.randint(0, 256, (N, 1, 3, 3), dtype=torch.uint8, generator=draws),
    }


@pytest.fixture
def data(arrays):
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[0, ::3] = False
    mask[1, ::4] = False
    return MultimodalData(
        arrays,
        mask=mask,
        labels=np.arange(N) % 5,
        ids=[f"s{row}" for row in range(N)],
        groups=np.repeat(np.arange(N // 4), 4),
        scale={"image": 1 / 255},
        splits={"train": range(40), "test": range(40, N)},
    )


def same(one: Batch, other: Batch) -> bool:
    return (
        all(torch.equal(one.data[name], other.data[name]) for name in other.data)
        and torch.equal(one.mask, other.mask)
        and torch.equal(one.extra["labels"], other.extra["labels"])
        and one.complete == other.complete
    )


# Rows


def test_take_is_indexing_times_the_scale(data, arrays):
    index = torch.tensor([7, 3, 3, 50])
    batch = data.take(index)
    assert torch.equal(batch.mask, data.mask[:, index])
    assert torch.equal(batch.extra["labels"], index % 5)
    rna = arrays["rna.counts"][index] * batch.mask[0, :, None]
    image = arrays["image"][index].double() / 255 * batch.mask[1, :, None, None, None]
    assert torch.equal(batch.data["rna.counts"], rna)
    assert torch.allclose(batch.data["image"].double(), image, atol=1e-7)
    assert torch.equal(data.values("image")[index], batch.data["image"])


def test_a_slice_a_list_and_a_bool_pick_the_same_rows(data):
    chosen = np.zeros(N, dtype=bool)
    chosen[5:12] = True
    assert same(data.take(slice(5, 12)), data.take(list(range(5, 12))))
    assert same(data.take(chosen), data.take(slice(5, 12)))


def test_whole_says_what_the_mask_says(data):
    for start in range(0, N, 2):
        batch = data.take([start, start + 1])
        assert batch.complete == bool(batch.mask.all())


def test_batches_in_order_are_the_data(data):
    parts = list(data.batches(7))
    assert [part.size for part in parts] == [7] * 8 + [4]
    assert torch.equal(torch.cat([part.data["image"] for part in parts]), data.values("image"))
    assert torch.equal(torch.cat([part.mask for part in parts], 1), data.mask)


def test_rows_carry_ids_labels_and_groups_along(data):
    part = data.rows([9, 2, 30])
    assert part.ids == ["s9", "s2", "s30"]
    assert part.labels.tolist() == [4, 2, 0]
    assert part.groups.tolist() == [2, 0, 7]
    assert torch.equal(part.mask, data.mask[:, [9, 2, 30]])


def test_complete_keeps_exactly_the_rows_without_a_gap(arrays):
    entries = torch.ones(N, 4, dtype=torch.bool)
    entries[5, 2] = False
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[1, 8:] = False
    data = MultimodalData(arrays, mask=mask, entries={"rna.counts": entries}, ids=range(N))
    assert data.complete().ids == [0, 1, 2, 3, 4, 6, 7]


def test_nothing_that_was_given_is_changed_or_kept(arrays):
    before = {name: x.clone() for name, x in arrays.items()}
    mask = torch.rand(2, N, generator=torch.Generator().manual_seed(1)) < 0.5
    data = MultimodalData(arrays, mask=mask)
    data.hide(0.9, seed=1)
    data.observe("image")
    data.split()
    assert all(torch.equal(arrays[name], before[name]) for name in before)
    arrays["image"].zero_()
    assert torch.equal(data.values("image"), before["image"] * mask[1, :, None, None, None])


def test_a_row_of_which_nothing_was_observed_is_counted(arrays):
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[:, 10:14] = False
    assert MultimodalData(arrays, mask=mask).unobserved_rows == 4
    assert MultimodalData(arrays, mask=mask).hide(0.5, seed=0).unobserved_rows == 4


def test_the_digest_changes_with_every_fact(arrays):
    bare = MultimodalData(arrays).digest()
    other = {**arrays, "image": arrays["image"].clone()}
    other["image"][0, 0, 0, 0] += 1
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[0, 0] = False
    variants = [
        MultimodalData(other),
        MultimodalData(arrays, mask=mask),
        MultimodalData(arrays, labels=range(N)),
        MultimodalData(arrays, card={"name": "x"}),
        MultimodalData(arrays, scale={"image": 0.5}),
        MultimodalData(arrays).split(),
    ]
    assert MultimodalData(arrays).digest() == bare
    assert len({bare, *(variant.digest() for variant in variants)}) == 7


# Hiding


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_hide_spares_one_modality_and_keeps_its_rate(rate):
    rows, views = 4000, 5
    hidden = MultimodalData({f"m{view}": torch.ones(rows, 1) for view in range(views)}).hide(rate, seed=3)
    kept = hidden.mask.double()
    assert hidden.unobserved_rows == 0
    # A row keeps what chance leaves, and one more where chance leaves none.
    expected = (1 - rate) + rate**views / views
    spread = math.sqrt(expected * (1 - expected) / rows)
    assert (kept.mean(1) - expected).abs().max() <= 4 * spread + 1e-12
    assert torch.equal(hidden.values("m2")[:, 0], hidden.mask[2].float())


def test_hide_is_a_function_of_its_seed_and_shows_nothing_that_was_hidden(data):
    once, again, other = data.hide(0.5, seed=1), data.hide(0.5, seed=1), data.hide(0.5, seed=2)
    assert torch.equal(once.mask, again.mask)
    assert not torch.equal(once.mask, other.mask)
    assert not (once.mask & ~data.mask).any()
    assert torch.equal(once.mask.any(0), data.mask.any(0))


def test_observe_conditions_on_what_was_named(data):
    seen = data.observe("image")
    assert seen.mask.tolist() == [[False] * N, data.mask[1].tolist()]
    assert seen.values("rna.counts").abs().sum() == 0


# Splits


def test_names_in_a_list_are_answered_with_how_to_give_them(data):
    for use in (data.observe, data.select):
        with pytest.raises(
            InputError, match=r"^batch: got list [^\n]*; expected [^\n]*observe\(\*names\)[^\n]*$"
        ):
            use(list(data.names))


def test_carve_never_divides_a_group_and_loses_no_row(data):
    for seed in range(20):
        train, validation = data.carve(0.2, seed)
        assert not set(train.groups) & set(validation.groups)
        assert sorted(train.ids + validation.ids) == sorted(data.ids)
        assert len(validation) == 12


def test_a_split_without_groups_is_exact_and_repeats_by_seed(arrays):
    data = MultimodalData(arrays, ids=range(N))
    parted = data.split({"train": 0.5, "validation": 0.25, "test": 0.25}, seed=4)
    assert (len(parted.train), len(parted.validation), len(parted.test)) == (30, 15, 15)
    assert sorted(parted.train.ids + parted.validation.ids + parted.test.ids) == list(range(N))
    assert data.split(seed=4).train.ids == data.split(seed=4).train.ids != data.split(seed=5).train.ids


def test_uneven_groups_come_within_half_a_group_of_their_share():
    groups = np.repeat(np.arange(40), np.arange(40) % 7 + 1)
    data = MultimodalData({"x": torch.zeros(len(groups), 1)})
    for seed in range(20):
        parted = data.split({"train": 0.7, "test": 0.3}, seed, groups=groups)
        assert abs(len(parted.train) - 0.7 * len(groups)) <= 3.5
        assert not set(parted.train.groups) & set(parted.test.groups)


# The door

BAD = {
    "labels of another length": (lambda x: {"labels": [1, 2]}, ["labels", "(2,)", "(60,)"]),
    "labels that are no integers": (
        lambda x: {"labels": np.linspace(0, 1, N)},
        ["labels", "float64", "integers", "numpy.unique"],
    ),
    "ids twice": (lambda x: {"ids": ["a", "a", *range(N - 2)]}, ["ids", "'a'", "more than once"]),
    "ids of another length": (lambda x: {"ids": ["a"]}, ["ids", "(1,)", "(60,)"]),
    "groups of another length": (lambda x: {"groups": [0] * 61}, ["groups", "(61,)", "(60,)"]),
    "a row in two splits": (
        lambda x: {"splits": {"train": range(N), "test": [3]}},
        ["1 rows more than once", "row 3"],
    ),
    "a row in no split": (lambda x: {"splits": {"train": range(N - 2)}}, ["2 rows in no split", "row 58"]),
    "a row number too far": (
        lambda x: {"splits": {"train": range(N + 1)}},
        ["'train'", "0 to 60", "0 to 59"],
    ),
    "a mask as a split": (
        lambda x: {"splits": {"train": np.ones(N, dtype=bool)}},
        ["bool", "numpy.flatnonzero"],
    ),
    "a group in two splits": (
        lambda x: {"splits": {"train": range(30), "test": range(30, N)}, "groups": [7] * N},
        ["group 7", "both 'train'"],
    ),
    "a specification too few": (
        lambda x: {"modalities": [Modality("image", (1, 3, 3))]},
        ["none for 'rna.counts'", "Modality('rna.counts', (4,))"],
    ),
    "a specification that does not fit": (
        lambda x: {"modalities": [Modality("image", (9,)), Modality("rna.counts", (4,))]},
        ["'image'", "(1, 3, 3)", "(9,)"],
    ),
    "a scale for nobody": (lambda x: {"scale": {"imag": 0.5}}, ["'imag'", "did you mean 'image'"]),
    "a scale of zero": (lambda x: {"scale": {"image": 0}}, ["scale", "got 0", "above 0"]),
    "a mask of the wrong shape": (
        lambda x: {"mask": torch.ones(N, 2, dtype=torch.bool)},
        ["mask", "(60, 2)", "(2, 60)"],
    ),
    "entries that are no bool": (
        lambda x: {"entries": {"image": x["image"]}},
        ["entries", "uint8", "torch.bool"],
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_the_door_answers_with_one_line_that_says_what_is_wrong(arrays, what):
    given, words = BAD[what]
    with pytest.raises(InputError) as caught:
        MultimodalData(arrays, **given(arrays))
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message or "did you mean" in message
    assert [word for word in words if word not in message] == []


def test_values_that_are_not_finite_pass_only_under_the_mask():
    x = torch.tensor([[1.0], [math.nan], [math.inf]])
    with pytest.raises(InputError, match="'x': got 2 values that are NaN or infinite"):
        MultimodalData({"x": x})
    hidden = MultimodalData({"x": x, "y": torch.zeros(3, 1)}, mask={"x": [True, False, False]})
    assert hidden.values("x")[:, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda data: data.validation, ["no split 'validation'", "train, test"]),
        (lambda data: data.rows([0]).train, ["no split 'train'", "split()"]),
        (lambda data: data.take([N]), ["60 to 60", "0 to 59"]),
        (lambda data: data.hide(1.5), ["rate=1.5", "between 0 and 1"]),
        (lambda data: data.carve(0), ["fraction=0", "between 0 and 1"]),
        (lambda data: data.split({"train": 0.5}), ["add to 1"]),
        (
            lambda data: data.rows(range(4)).split({"train": 0.9, "test": 0.1}),
            ["nothing is left for 'test'", "1 groups"],
        ),
        (lambda data: data.observe("imag"), ["'imag'", "did you mean 'image'"]),
        (lambda data: data.modalities(privat=3), ["'privat'", "did you mean 'private'"]),
        (lambda data: SliceLoader(data, 0), ["batch_size=0"]),
        (lambda data: SliceLoader(data, 4, rank=2, world=2), ["rank 2 of 2"]),
        (lambda data: load_dataset("polydigit"), ["did you mean 'polydigits'"]),
        (lambda data: load_dataset("polydigits", sead=1), ["'sead'", "did you mean 'seed'"]),
        (lambda data: next(StreamLoader(DataLoader(list(range(4)))).epoch(0)), ["got Tensor", "collate_fn"]),
    ],
)
def test_a_request_that_cannot_be_met_gets_one_line(data, call, words):
    with pytest.raises(InputError) as caught:
        call(data)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


def test_specifications_are_derived_in_the_order_of_the_data_and_overridden(arrays, data):
    assert [
        (spec.name, spec.shape, spec.likelihood, spec.private) for spec in data.modalities(private=3)
    ] == [("rna.counts", (4,), "normal", 3), ("image", (1, 3, 3), "normal", 3)]
    turned = MultimodalData(
        arrays, modalities=[Modality("image", (1, 3, 3), "laplace"), Modality("rna.counts", (4,))]
    )
    assert [(spec.name, spec.likelihood, spec.private) for spec in turned.modalities()] == [
        ("rna.counts", "normal", None),
        ("image", "laplace", None),
    ]


# Loaders


def test_an_epoch_is_a_permutation_that_seed_and_epoch_decide(data):
    loader = SliceLoader(data, 7, seed=1)
    orders = {
        key: SliceLoader(data, 7, seed=key[0]).order(key[1]).tolist()
        for key in [(1, 0), (1, 1), (2, 0), (2, 1)]
    }
    assert all(sorted(order) == list(range(N)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 4
    torch.manual_seed(99)
    assert loader.order(0).tolist() == orders[1, 0]
    assert len(loader) == len(list(loader.epoch(0))) == 9


@pytest.mark.parametrize("start", [0, 1, 5, 8, 9])
def test_an_epoch_resumes_where_it_stopped(data, start):
    loader = SliceLoader(data, 7, seed=1)
    rest, full = list(loader.epoch(3, start)), list(loader.epoch(3))
    assert len(rest) == 9 - start
    assert all(same(one, other) for one, other in zip(rest, full[start:], strict=True))


def test_a_loaders_batches_are_the_rows_of_its_order(data):
    loader = SliceLoader(data, 8, seed=5)
    for batch, rows in zip(loader.epoch(2), loader.order(2).split(8), strict=True):
        assert same(batch, data.take(rows))


def test_without_shuffling_an_epoch_is_the_data_in_order(data):
    loader = SliceLoader(data, 8, shuffle=False)
    assert all(same(one, other) for one, other in zip(loader.epoch(4), data.batches(8), strict=True))


@pytest.mark.parametrize(("rows", "world"), [(60, 2), (60, 3), (50, 4), (3, 5)])
def test_ranks_share_an_epoch_out_evenly(data, rows, world):
    part = data.rows(range(rows))
    orders = [SliceLoader(part, 4, seed=1, rank=rank, world=world).order(0).tolist() for rank in range(world)]
    together = [row for order in orders for row in order]
    assert {len(order) for order in orders} == {-(-rows // world)}
    assert set(together) == set(range(rows))
    assert len(together) - rows == -rows % world


def collate(rows):
    return {"x": torch.stack(rows)[:, None].double() + torch.rand(len(rows), 1).double() / 2}


def test_a_stream_repeats_by_seed_and_epoch_whatever_was_drawn_between():
    loader = StreamLoader(
        DataLoader(torch.arange(20), batch_size=6, shuffle=True, collate_fn=collate), seed=3
    )

    def values(epoch, start=0):
        torch.rand(3)
        return [batch.data["x"] for batch in loader.epoch(epoch, start) if torch.rand(1) < 2]

    first, again, rest, other = values(0), values(0), values(0, 2), values(1)
    assert (loader.size, len(loader), len(first)) == (20, 4, 4)
    assert torch.equal(torch.cat(first), torch.cat(again))
    assert torch.equal(torch.cat(first[2:]), torch.cat(rest))
    assert (
        sorted(torch.cat(first)[:, 0].long().tolist())
        == sorted(torch.cat(other)[:, 0].long().tolist())
        == list(range(20))
    )
    assert not torch.equal(torch.cat(first), torch.cat(other))


def test_a_stream_leaves_the_global_generator_alone():
    loader = StreamLoader(DataLoader(torch.arange(20), batch_size=6, shuffle=True, collate_fn=collate))
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    assert torch.equal(torch.stack([torch.rand(1)[0] for _ in loader.epoch(0)]), expected)


def test_a_stream_hands_batches_through_and_asks_how_long_an_endless_one_is(data):
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(data.batches(16))

    loader = DataLoader(Endless(), batch_size=None)
    with pytest.raises(InputError, match=r"Endless, which has no length; .* pass size= and steps="):
        StreamLoader(loader)
    stream = StreamLoader(loader, size=48, steps=3)
    assert all(
        same(one, data.take(slice(16 * step, 16 * step + 16))) for step, one in enumerate(stream.epoch(0))
    )
    assert sum(batch.size for batch in stream.epoch(0)) == stream.size


# Seeds


def test_mixed_seeds_are_fixed_for_ever_and_differ():
    assert (mix(), mix(0), mix(0, 1), mix(1, 0)) == (
        0,
        5225608189600411232,
        8085905411993364802,
        6802404449170015307,
    )
    assert len({mix(seed, step) for seed in range(-50, 50) for step in range(100)}) == 10_000
    assert all(0 <= mix(seed) < 2**63 for seed in range(-50, 50))


def test_hashed_bits_are_fair_and_permutations_are_permutations():
    words = bits(4000, 1)
    ones = np.unpackbits(words.view(np.uint8)).reshape(4000, 64).mean(0)
    assert abs(ones - 0.5).max() <= 4.5 * 0.5 / math.sqrt(4000)
    assert sorted(permutation(1000, 3).tolist()) == list(range(1000))


def test_every_data_set_says_what_it_is():
    for name, entry in DATASETS.items():
        for text in (entry.modalities, entry.samples, entry.what, entry.licence):
            assert text.strip(), name
            assert "\n" not in text


def test_modalities_that_are_not_selected_are_not_there(data):
    names = data.names[::-1][:1]
    part = data.select(*names)
    assert (part.names, [spec.name for spec in part.modalities()], len(part)) == (
        names,
        list(names),
        len(data),
    )
    assert torch.equal(part.mask, data.mask[-1:])
    assert torch.equal(part.take([2, 0]).data[names[0]], data.take([2, 0]).data[names[0]])
    with pytest.raises(InputError, match="select: modality 'nobody' is not in the data"):
        data.select("nobody")


def test_labels_become_a_target_that_says_them():
    labels = [2, 0, 1, 2]
    data = MultimodalData(
        {"x": torch.arange(8.0).view(4, 2)},
        mask={"x": [True, False, True, True]},
        labels=labels,
        splits={"train": [0, 2], "test": [1, 3]},
    ).with_labels_as("digit")
    spec = data.modalities()[1]
    assert (spec.name, spec.shape, spec.likelihood, spec.role) == ("digit", (3,), "categorical", "target")
    assert data.take(slice(None)).data["digit"].argmax(1).tolist() == labels
    assert data.mask.tolist() == [[True, False, True, True], [True] * 4]
    assert data.test.take(slice(None)).data["digit"].tolist() == [[1, 0, 0], [0, 0, 1]]
    with pytest.raises(InputError, match="got target 'x' for data that have such a modality"):
        data.with_labels_as("x")


def test_a_label_of_minus_one_is_missing_and_a_label_alone_is_never_kept():
    data = MultimodalData(
        {"a": torch.randn(400, 2), "b": torch.randn(400, 2)}, labels=[0, 1, 2, -1] * 100
    ).with_labels_as("digit")
    assert data.modalities()[2].shape == (3,)
    assert data.mask[2].tolist() == [True, True, True, False] * 100
    assert data.values("digit")[:4].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    hidden = data.hide(0.5, seed=3)
    assert bool(hidden.mask[:2].any(0).all())
    assert 0.3 < float(hidden.mask[2][data.mask[2]].double().mean()) < 0.7
    with pytest.raises(InputError, match="expected two classes or more"):
        MultimodalData({"a": torch.randn(2, 2)}, labels=[-1, 0]).with_labels_as("digit")


def test_the_digest_of_data_changes_with_every_missing_entry():
    x, entries = torch.ones(4, 3), torch.ones(4, 3, dtype=torch.bool)
    entries[0, 0] = False
    found = set()
    for row in range(1, 4):
        more = entries.clone()
        more[row, 1] = False  # the values are zero there, as those of an entry that was observed as zero
        values = x.clone()
        values[row, 1] = 0
        found |= {
            MultimodalData({"a": x, "b": x}, entries={"a": more}).digest(),
            MultimodalData({"a": values, "b": x}, entries={"a": entries}).digest(),
            MultimodalData({"a": x, "b": x}, entries={"b": more}).digest(),
        }
    assert len(found) == 9


@pytest.mark.parametrize("number", [10**9, 2**62, 7_000_000])
def test_class_numbers_with_large_gaps_are_refused_before_they_take_memory(number):
    labels = torch.tensor([0, 1, number])
    with pytest.raises(InputError, match=r"number .*first, as numpy\.unique") as caught:
        MultimodalData({"a": torch.ones(3, 2)}, labels=labels)
    assert "\n" not in str(caught.value)
    data = MultimodalData({"a": torch.ones(3, 2)}, labels=torch.tensor([0, 1, 900_000]))
    with pytest.raises(InputError, match="without large gaps"):
        data.with_labels_as("y")
    assert MultimodalData({"a": torch.ones(3, 2)}, labels=torch.tensor([0, -1, 999])).with_labels_as(
        "y"
    ).names == ("a", "y")


def test_half_precision_is_scaled_in_single_precision():
    data = MultimodalData({"a": torch.full((3, 2), 60_000, dtype=torch.float16)}, scale={"a": 4.0})
    assert torch.equal(data.values("a"), torch.full((3, 2), 240_000.0))
    assert torch.equal(data.take([0]).data["a"], torch.full((1, 2), 240_000.0))


def test_rows_in_another_order_are_not_taken_for_adjacent_ones(data):
    for index in ([1, 3, 2, 4], [4, 3, 2, 1], [1, 2, 3, 4]):
        assert same(data.rows(index).take(slice(0, 4)), data.take(index))
        assert data.rows(index).labels.tolist() == [row % 5 for row in index]


@pytest.mark.parametrize(("spread", "lost"), [(0.01, True), (1.0, False)])
def test_a_column_that_single_precision_cannot_tell_apart_is_a_warning(spread, lost):
    """Numbers near a million are 1/16 apart in float32: an error of .018 on average."""
    x = 1e6 + spread * torch.randn(500, 2, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MultimodalData({"a": torch.cat([torch.randn(500, 1).double(), x], 1)})
    assert [str(one.message).partition(" (")[0] for one in caught] == (
        ["modality 'a': column 1 and 1 more"] if lost else []
    )


@pytest.mark.parametrize("kind", [int, float])
def test_a_label_that_is_marked_as_missing_is_minus_one(kind):
    labels = np.ma.MaskedArray(np.array([0, 1, 2, 1], dtype=kind), mask=[False, True, False, False])
    data = MultimodalData({"a": torch.ones(4, 2)}, labels=labels)
    assert data.labels.tolist() == [0, -1, 2, 1]


@pytest.mark.parametrize("wrong", [[-1], [3, -2, 5], [N]])
def test_row_numbers_do_not_count_from_the_end(data, wrong):
    for use in (data.take, data.rows):
        with pytest.raises(
            InputError, match=rf"^rows: got row numbers from [^\n]*; expected 0 to {N - 1}; [^\n]*$"
        ):
            use(wrong)
