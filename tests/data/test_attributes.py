"""Several labels: they follow the samples, belong to the digest, and what is said of them belongs to its modality."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyvae import InputError, MultimodalData
from polyvae.data.readers.layout import DataLayout
from polyvae.testing import check_data

COUNT = 120
PLAIN = "06168b1bf3cdf4bbb9b689a8d5cfadba"  # recorded before there were attributes


def made(**changes) -> MultimodalData:
    x = np.arange(2.0 * COUNT).reshape(COUNT, 2)
    given = {
        "attributes": {"colour": np.arange(COUNT) % 3, "size": np.arange(COUNT) % 5 - 1},
        "classes": {"colour": ["red", "green", "blue"]},
        "said": {"b": {"size": np.arange(COUNT) % 2 == 0}},
        "labels": np.arange(COUNT) % 2,
        "splits": {"train": range(100), "test": range(100, COUNT)},
    }
    return MultimodalData({"a": x, "b": x + 1}, **{**given, **changes})


@pytest.fixture(scope="module")
def data():
    return made()


def test_the_data_obey_the_laws(data):
    check_data(data)


def test_they_are_what_was_given(data):
    assert data.attributes["colour"].tolist() == [row % 3 for row in range(COUNT)]
    assert data.attributes["size"].min() == -1
    assert data.classes == {"colour": ("red", "green", "blue"), "size": ("0", "1", "2", "3")}
    assert not bool(data.said["b"]["colour"].any())
    assert data.said["b"]["size"].tolist() == [row % 2 == 0 for row in range(COUNT)]
    assert made(attributes=None, classes=None, said=None).attributes == {}


def test_they_follow_the_samples(data):
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    part = data.rows(order)
    for name, x in data.attributes.items():
        assert torch.equal(part.attributes[name], x[order])
        assert torch.equal(part.said["b"][name], data.said["b"][name][order])
    assert data.test.attributes["colour"].tolist() == [row % 3 for row in range(100, COUNT)]
    hidden = data.hide(0.5, seed=1)
    assert torch.equal(hidden.attributes["size"], data.attributes["size"])
    batch = data.take([7, 3])
    assert batch.extra["attributes"].tolist() == [[1, 1], [0, 2]]
    assert batch.extra["said"].tolist() == [[[False, False]], [[False, False]]]
    assert "attributes" not in batch.data


def test_completed_data_keep_them(data):
    columns = {"b": ("0", "1")}
    back = DataLayout(data).back({"b": np.zeros((COUNT, 2))}, columns)
    assert back.names == ("b",)
    assert torch.equal(back.attributes["size"], data.attributes["size"])
    assert (back.classes, back.parsers) == (data.classes, {})
    assert torch.equal(back.said["b"]["size"], data.said["b"]["size"])
    other = DataLayout(data).back({"a": np.zeros((COUNT, 2))}, {"a": ("0", "1")})
    assert (list(other.attributes), other.said) == (["colour", "size"], {})


def test_what_is_said_leaves_with_its_modality(data):
    assert set(data.select("b").said) == {"b"}
    rest = data.select("a")
    assert rest.said == {}
    assert set(rest.attributes) == {"colour", "size"}
    assert "said" not in rest.take([0]).extra
    check_data(rest)


def test_they_belong_to_the_digest_and_data_without_keep_theirs(data):
    digests = [
        data.digest(),
        made(attributes={"colour": np.arange(COUNT) % 3, "size": np.arange(COUNT) % 4}).digest(),
        made(classes={"colour": ["red", "green", "grey"]}).digest(),
        made(said=None).digest(),
        made(said={"a": {"size": np.arange(COUNT) % 2 == 0}}).digest(),
        made(attributes=None, classes=None, said=None).digest(),
    ]
    assert len(set(digests)) == len(digests)
    assert made(attributes=None, classes=None, said=None, splits=None).digest() == PLAIN


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attributes": {"colour": [0, 1]}}, "attribute 'colour': labels: got shape (2,)"),
        ({"attributes": [1]}, "attributes: got list; expected a mapping"),
        ({"attributes": {"label": np.zeros(COUNT, int)}, "said": None, "classes": None}, "'label'"),
        ({"classes": {"color": ["red"]}}, "attribute 'color' is not in the data; did you mean 'colour'?"),
        (
            {"classes": {"colour": ["red", "green"]}},
            "got 2 names for attribute 'colour' with classes up to 2",
        ),
        ({"classes": {"colour": ["red", "red", "blue"]}}, "expected a distinct name"),
        ({"said": {"c": {}}}, "said: modality 'c' is not in the data"),
        ({"said": {"a": {"sizes": np.ones(COUNT, bool)}}}, "did you mean 'size'?"),
        ({"said": {"a": {"size": np.ones(COUNT)}}}, "got float64; expected bool"),
        ({"said": {"a": {"size": np.ones(3, bool)}}}, "got shape (3,)"),
        ({"attributes": None, "classes": None}, "said: got data without attributes"),
        ({"parsers": {"z": "shapes_captions"}}, "parsers: modality 'z' is not in the data"),
    ],
)
def test_what_does_not_fit_gets_one_line(changes, words):
    with pytest.raises(InputError) as caught:
        made(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
