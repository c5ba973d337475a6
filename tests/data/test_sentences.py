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
        ([None, "a a a"], {"length": 3}, "3 words in row 1"),
    ],
)
def test_what_is_refused(sentences, options, says):
    with pytest.raises(pv.InputError, match=says) as problem:
        pv.text(sentences, **options)
    assert "\n" not in str(problem.value)


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
