"""Sentences in a report and beside generated samples."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import torch

import polyvae as pv
from polyvae.core.fitted import FittedMixture
from polyvae.report.gallery import cross_generation, stage, traverse, unconditional
from polyvae.report.partial import partial_figure, partial_samples
from polyvae.runs import write_sentences

SAID = ["a small red dot & a <large> one.", "two blue dots", "nothing"]


def small():
    torch.manual_seed(0)
    ids, caption = pv.text([SAID[row % 3] for row in range(12)])
    data = pv.MultimodalData(
        {"image": np.random.default_rng(0).random((12, 3, 8, 8), np.float32), "caption": ids},
        modalities=[pv.Modality("image", (3, 8, 8)), caption],
    )
    return pv.MMVAEPlus(data.modalities(), latent=2).eval(), data


def test_grids_show_the_sentences_themselves():
    model, data = small()
    scene = stage(model, data, None, 0)
    assert scene.inputs == scene.targets == ["image", "caption"]
    assert scene.wide("caption") > scene.wide("image")
    figure = cross_generation(scene)
    assert scene.side == 88  # eleven pixels for each of the image
    assert "given" in figure.body
    words = figure.body.replace("\n", " ")
    for part in ("nothing", "two blue dots"):
        assert part in words
    assert figure.width <= 1200
    for other in (unconditional(scene, False), traverse(scene, "z")):
        assert other.width <= 1100


def test_long_sentences_are_shown_to_their_end():
    """About 170 letters, as the longest captions of photos have."""
    sentence = " ".join(f"word{row:02d}" for row in range(24)) + " end"
    ids, caption = pv.text([sentence, "short"])
    data = pv.MultimodalData(
        {"image": torch.rand(2, 3, 64, 64), "caption": ids},
        modalities=[pv.Modality("image", (3, 64, 64)), caption],
    )
    scene = stage(pv.MMVAEPlus(data.modalities(), latent=2).eval(), data, None, 0, samples=2)
    figure = cross_generation(scene)
    assert "word23 end" in figure.body
    assert figure.width <= 1200


def test_samples_are_named_after_the_attribute_that_is_the_label():
    _, data = small()
    rows = torch.arange(12) % 2
    names = {"size": ["small", "large"], "shape": ["disc", "box"]}
    data = pv.MultimodalData(
        dict(data.take(slice(None)).data),
        labels=rows,
        attributes={"size": 1 - rows, "shape": rows},
        classes=names,
        modalities=data.modalities(),
    )
    scene = stage(pv.MMVAEPlus(data.modalities(), latent=2).eval(), data, None, 0, samples=2)
    assert {scene.title(row).partition(": ")[2] for row in (0, 1)} == {"disc", "box"}


def test_generated_sentences_are_a_table(tmp_path):
    model, data = small()
    torch.manual_seed(1)
    made = model.generate(data.take([0, 1]).observe("image"), K=2)
    assert write_sentences(tmp_path / "s.csv", model, made) == 4
    with (tmp_path / "s.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["modality", "draw", "sample", "sentence"]
    decoded = model.modalities["caption"].likelihood.vocabulary.decode(made["caption"])
    assert rows == [["caption", str(k), str(n), decoded[k][n]] for k in range(2) for n in range(2)]
    given = data.take([0, 1]).observe("caption")
    assert write_sentences(tmp_path / "g.csv", model, made, given) == 4
    with (tmp_path / "g.csv").open(newline="") as file:
        beside = list(csv.reader(file))
    assert beside[0] == [*head, "given"]
    assert [row[:4] for row in beside[1:]] == rows
    assert [row[4] for row in beside[1:]] == 2 * ["a small red dot & a < large > one.", SAID[1]]
    assert write_sentences(tmp_path / "i.csv", model, made, data.take([0, 1]).observe("image")) == 4
    assert (tmp_path / "i.csv").read_text() == (tmp_path / "s.csv").read_text()
    assert write_sentences(tmp_path / "none.csv", model, {"image": made["image"]}) == 0
    assert not (tmp_path / "none.csv").exists()


def test_draws_given_a_partial_sentence_show_what_it_leaves_open():
    model, data = small()
    assert partial_samples(model, data, 0) is None  # the data do not state attributes
    names = ("size", "shape", "colour")
    said = {name: torch.arange(12) % 4 > place for place, name in enumerate(names)}  # 0 to 3 are stated
    whole = {name: torch.arange(12) % 2 for name in names}
    x = dict(data.take(slice(None)).data)
    data = pv.MultimodalData(x, attributes=whole, said={"caption": said}, modalities=data.modalities())
    found = partial_samples(model, data, 0)
    assert (found.given, found.open) == ("caption", [["shape", "colour"], ["colour"]])
    scene = stage(model, data, None, 0)
    alone = partial_figure(scene, found)
    assert "given caption; open: shape, colour" in alone.body.replace("\n", " ")
    assert "Fitted prior" not in alone.body
    blocks = [model.shared, *(len(model.owner) // 2 for _ in range(2))]
    prior = FittedMixture.fit(torch.randn(64, sum(blocks)), 1, blocks=blocks)
    both = partial_figure(stage(model, data, prior, 0), found)
    assert "Fitted prior" in both.body
    assert both.height > 1.5 * alone.height
    assert both.width <= 1000
    # A modality that is never encoded gives nothing.
    target = [replace(spec, role="target") if spec.name == "caption" else spec for spec in data.modalities()]
    assert partial_samples(pv.MMVAEPlus(target, latent=2).eval(), data, 0) is None
