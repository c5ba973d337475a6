"""``shapes_captions``: an image of one shape, and a caption that states all or some of its attributes. Embedded; nothing is downloaded.

Whether what is generated is right can be judged exactly: captions are parsed by rule, images by a classifier of each attribute. Every
number comes from a counter-based hash of the seed.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from polyvae.core.modality import Modality
from polyvae.core.vocabulary import Vocabulary
from polyvae.data.multimodal import MultimodalData
from polyvae.data.sets.shapes_drawing import PATTERNS, Drawing, brightness, draw, nuisance, uniform
from polyvae.data.sets.shapes_grammar import ATTRIBUTES, LENGTH, WORDS, Style, write
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.seeds import bits, permutation

UNSEEN = (3, 1, 5, 0)  # of each shape the colour that it never has in training: blue, yellow, white, red
VOCABULARY = Vocabulary(WORDS)
FULL = 0.25  # the share of partial captions that state everything
SIDES = (16, 32, 64)
_SHOWN = ("shape", "size", "fill", "position")  # by the mask of the shape
_PARTS = {"train": 1, "test": 2, "unseen": 3, "judges": 4}  # the part of the data that a hash is for


class Pairs(NamedTuple):
    """N pairs: ``classes`` attribute -> [N]; ``said`` attribute -> [N] bool; ``captions`` N sentences; and what was drawn."""

    classes: dict[str, NDArray[np.int64]]
    said: dict[str, NDArray[np.bool_]]
    captions: list[str]
    drawing: Drawing
    factors: dict[str, NDArray[Any]]


def shapes_captions(
    *,
    side: int = 16,
    captions: Style = "partial",
    mask: bool = False,
    seed: int = 0,
    train: int = 10_000,
    test: int = 2_000,
    unseen: int = 1_000,
    judges: int = 6_000,
) -> MultimodalData:
    """Draw ``train`` + ``test`` + ``unseen`` + ``judges`` pairs of an image [3, side, side] in [0, 1] and a caption [17] of token ids.

    The attributes are independent and uniform, except that each shape has a colour with which it is not in "train" and "test". The split
    "unseen" contains only such pairs, and "judges", from which the classifiers used for evaluation learn, all of them. Labels are the
    shapes; ``attributes`` are all six, and ``said`` what each caption states. Captions are "template" (one wording, everything stated),
    "paraphrase" (five orders of words, and synonyms) or "partial" (paraphrases, of which a quarter state everything and the others each
    attribute with probability 1/2). With ``mask`` the pixels of the shape are a third modality [1, side, side].
    Raises InputError for another ``side`` than 16, 32 or 64, an unknown style, or fewer than 10 pairs in a part; ``unseen`` and
    ``judges`` may be 0.
    """
    counts = {"train": train, "test": test}
    counts |= {name: count for name, count in (("unseen", unseen), ("judges", judges)) if count}
    _check(side, captions, counts)
    parts = [pairs(name, count, side, captions, seed) for name, count in counts.items()]
    x: dict[str, Any] = {
        "image": np.concatenate([part.drawing.image for part in parts]),
        "caption": VOCABULARY.encode([caption for part in parts for caption in part.captions], LENGTH),
    }
    said = {"caption": {name: np.concatenate([part.said[name] for part in parts]) for name in ATTRIBUTES}}
    if mask:
        x["mask"] = np.concatenate([part.drawing.mask for part in parts])
        said["mask"] = dict.fromkeys(_SHOWN, np.ones(len(x["mask"]), dtype=bool))
    classes = {name: np.concatenate([part.classes[name] for part in parts]) for name in ATTRIBUTES}
    ends = np.cumsum([0, *counts.values()]).tolist()
    return MultimodalData(
        x,
        labels=classes["shape"],
        attributes=classes,
        classes=ATTRIBUTES,
        said=said,
        parsers={"caption": "shapes_captions"},
        factors={
            "image": {key: np.concatenate([part.factors[key] for part in parts]) for key in parts[0].factors}
        },
        splits={name: range(ends[place], ends[place + 1]) for place, name in enumerate(counts)},
        modalities=_modalities(side, mask),
        scale={"image": 1 / 255},
        seed=seed,
        card=_card(seed=seed, side=side, captions=captions, counts=counts),
    )


def pairs(part: str, count: int, side: int, style: Style, seed: int) -> Pairs:
    """The pairs of one part of the data."""
    key = seed, _PARTS[part]
    classes, said = combined(part, count, seed), stated(count, style, *key)
    choices = (
        (bits(count * (len(ATTRIBUTES) + 4), *key, 3) >> np.uint64(8)).astype(np.int64).reshape(count, -1)
    )
    sentences = [
        write(
            {name: int(classes[name][row]) for name in ATTRIBUTES if said[name][row]},
            choices[row].tolist(),
            style,
        )
        for row in range(count)
    ]
    free = nuisance(classes["background"], *key, 4)
    factors = {"pattern": free.pattern, "brightness": brightness(free)}
    return Pairs(classes, said, sentences, draw(classes, free, side, *key, 5), factors)


def combined(part: str, count: int, seed: int) -> dict[str, NDArray[np.int64]]:
    """The attributes of the samples of a part: name -> [N]. Combinations are balanced to within one, and in random order."""
    key = seed, _PARTS[part]
    every = np.stack(np.unravel_index(np.arange(960), [len(own) for own in ATTRIBUTES.values()]))
    held = np.array(UNSEEN)[every[0]] == every[1]
    rows = np.flatnonzero({"unseen": held, "judges": np.ones_like(held)}.get(part, ~held))
    rows = rows[permutation(len(rows), *key, 0)]  # so that a last incomplete round is a random part of them
    chosen = every[:, rows[(np.arange(count) % len(rows))[permutation(count, *key, 1)]]]
    return dict(zip(ATTRIBUTES, chosen, strict=True))


def stated(count: int, style: Style, *key: int) -> dict[str, NDArray[np.bool_]]:
    """Which attributes the captions state: name -> [N]."""
    if style != "partial":
        return {name: np.ones(count, dtype=bool) for name in ATTRIBUTES}
    full = uniform(count, *key, 2, 0) < FULL
    return {
        name: full | (bits(count, *key, 2, 1, place) >> np.uint64(63)).astype(bool)
        for place, name in enumerate(ATTRIBUTES)
    }


def _check(side: int, captions: str, counts: dict[str, int]) -> None:
    if side not in SIDES:
        raise InputError(
            f"shapes_captions: got side={side}; expected 16, 32 or 64 pixels; 16 is the quickest to learn"
        )
    if captions not in get_args(Style):
        raise InputError(
            f"shapes_captions: got captions={captions!r}; expected one of {', '.join(get_args(Style))}; "
            f"{nearest(str(captions), get_args(Style))}"
        )
    for name, count in counts.items():
        if count < 10:
            raise InputError(f"shapes_captions: got {name}={count}; expected at least 10 pairs; ask for more")


def _modalities(side: int, mask: bool) -> list[Modality]:
    image = Modality("image", (3, side, side), likelihood="normal", params={"scale": 0.1})
    caption = Modality(
        "caption",
        (LENGTH,),
        likelihood="sequence",
        network="text",
        params={"words": list(WORDS), "split": "words"},
    )
    return [image, caption, *([Modality("mask", (1, side, side), likelihood="bernoulli")] if mask else [])]


def _card(**facts: Any) -> dict[str, Any]:
    return {
        "name": "shapes_captions",
        "version": 1,
        "what": "an image of one shape before a pattern, and a caption that states all or some of six attributes",
        "source": "made by polyvae",
        "licence": "procedural, part of polyvae",
        "unseen": {
            shape: ATTRIBUTES["colour"][colour]
            for shape, colour in zip(ATTRIBUTES["shape"], UNSEEN, strict=True)
        },
        "patterns": list(PATTERNS),
        **facts,
    }
