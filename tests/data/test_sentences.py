"""A column of sentences as a modality."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import polyvae as pv
from polyvae.core.vocabulary import Vocabulary

SAID = ["A red dot.", None, "a blue dot", float("nan")]


@pytest.mark.parametrize("given", [SAID, pd.Series(SAID), pd.Series(SAID, dtype="string")])
def test_missing_sentences_are_a_missing_modality(given):
    ids, spec = pv.text(given)
    assert spec.shape == (5,)
    assert spec.params == {"words": ["a", "dot", ".", "blue", "red"], "split": "words"}
    data = pv.MultimodalData({"n": np.ones((4, 1)), "caption": ids}, modalities=[pv.Modality("n", 1), spec])
    assert data.mask[1].tolist() == [True, False, True, False]
    assert not data.entries
    assert data.modalities()[1].entries is False
    assert data.take([0]).data["caption"].tolist() == [[3, 7, 4, 5, 1]]


def test_a_given_vocabulary_and_length_are_kept():
    known = Vocabulary.of(["a red dot"])
    with pytest.warns(UserWarning, match="1 word that the vocabulary lacks: 'blue'"):
        ids, spec = pv.text(["a blue dot"], known, 8, name="said")
    assert ids.tolist() == [[3, 2, 4, 1, 0, 0, 0, 0]]
    assert (spec.name, spec.shape, spec.params["words"]) == ("said", (8,), ["a", "dot", "red"])
    assert pv.text(["abba"], split="characters").ids.tolist() == [[3, 4, 4, 3, 1]]


@pytest.mark.parametrize(
    ("sentences", "options", "says"),
    [
        ([None], {}, "1 rows without a sentence"),
        ("a b", {}, "text: got str"),
        ([None, 3], {}, "got int in row 1"),
        ([None, "  "], {"words": ["a"]}, "empty sentence in row 1"),
        ([None, "a a a"], {"length": 3}, "3 words in row 1.*shorten the sentence"),
        (pd.DataFrame({"a": ["b"], "c": ["d"]}), {}, "a table of 2 columns"),
        (["a"], {"like": pv.Modality("n", 3)}, "0 modalities of text"),
        (["a"], {"like": pv.text(["a b"]).modality, "length": 9}, "got like= with words=, length= or split="),
        (
            ["a"],
            {"like": pv.text(["a b"]).modality, "name": "captoin"},
            "there is no modality of text 'captoin'",
        ),
        (["a"], {"like": "model"}, "got like=str"),
    ],
)
def test_what_is_refused(sentences, options, says):
    with pytest.raises(pv.InputError, match=says) as problem:
        pv.text(sentences, **options)
    assert "\n" not in str(problem.value)


def test_sentences_are_encoded_like_those_of_a_model_or_a_modality():
    spec = pv.text(["a red dot", "two blue dots here"], name="said").modality
    model = pv.MVAE([pv.Modality("n", 2), spec, pv.text(["x"], name="other").modality], latent=2)
    for like in (spec, model):
        made = pv.text((one for one in ["a blue dot"]), like=like, name="said")
        assert made.modality == spec
        assert made.ids.shape == (1, 5)
        assert made.vocabulary.decode(made.ids) == ["a blue dot"]
    with pytest.raises(pv.InputError, match=r"2 modalities of text.*said, other"):
        pv.text(["a"], like=model)
    with pytest.warns(UserWarning, match=r"6 words.*'u', 'v', 'w', 'x', 'y', \.\.\.;"):
        assert pv.text(["u v", "w x", "a y z y"], like=spec).ids[2].tolist() == [3, 2, 2, 2, 1]


def test_sentences_are_a_value_with_their_specification():
    made = pv.text(SAID)
    data = pv.MultimodalData({"n": np.ones((4, 1)), "said": made})
    assert [spec.likelihood for spec in data.modalities()] == ["normal", "sequence"]
    assert [spec.name for spec in data.modalities()] == ["n", "said"]
    assert data.mask[1].tolist() == [True, False, True, False]
    own = pv.MultimodalData({"n": np.ones((4, 1)), "said": made}, modalities=[pv.Modality("n", 1, private=2)])
    assert [spec.likelihood for spec in own.modalities()] == ["normal", "sequence"]


@pytest.mark.parametrize(
    "given", [["a red dot", "b"], np.array(["a", "b"]), pd.Series(["a", "b"]), (None, "a")]
)
def test_strings_are_refused_with_a_pointer_to_text(given):
    for make in (pv.MultimodalData, pv.Batch.of):
        with pytest.raises(pv.InputError, match=r"'caption': got .* of strings.*polyvae\.text"):
            make({"caption": given})
    with pytest.raises(pv.InputError, match=r"got Sentences.*x\.ids"):
        pv.Batch.of({"caption": pv.text(["a b"])})


@pytest.mark.slow
def test_the_vocabulary_is_in_the_bundle(tmp_path):
    """A fresh process has the model's file alone, and writes sentences."""
    caption = pv.text(["a red dot.", "a blue dot."]).modality
    model = pv.MMVAEPlus([pv.Modality("image", (3, 8, 8)), caption], latent=2)
    pv.save_model(model, tmp_path / "model.safetensors")
    code = (
        "import sys, torch, polyvae as pv; model = pv.load_model(sys.argv[1]); torch.manual_seed(0); "
        "print(model.modalities['caption'].likelihood.vocabulary.decode(model.sample(3, sample=True)['caption']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.safetensors")],
        capture_output=True,
        text=True,
        check=True,
    )
    torch.manual_seed(0)
    drawn = model.eval().sample(3, sample=True)["caption"]
    assert done.stdout.strip() == str(model.modalities["caption"].likelihood.vocabulary.decode(drawn))
