"""Emoji: an image, its silhouette, and the words that describe it (Noto Emoji with the annotations of its characters)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polyvae.core.modality import Modality
from polyvae.core.vocabulary import Vocabulary
from polyvae.data.multimodal import MultimodalData
from polyvae.data.sentences import column
from polyvae.data.sets.arrays import check_side, npz, shrunk
from polyvae.data.sets.captions import cut
from polyvae.utils.errors import InputError, check_count
from polyvae.utils.seeds import permutation

SIDE = 64
_FILE = "noto_emoji_64.npz"
_HELD_OUT = 0.2
_WANTED = {"image": ("u", 4), "silhouette": ("u", 3), "codepoints": ("U", 1), "caption": ("U", 1)}


def emoji(*, root: Path, side: int = SIDE, length: int = 16, least: int = 1, seed: int = 0) -> MultimodalData:
    """Emoji with three modalities: "image" in [0, 1], "silhouette" and "caption". Groups are the first code points.

    Variants of an emoji, such as those of another skin tone, are never divided between the training and the test part.

    Args:
        root: The folder that contains ``noto_emoji_text/noto_emoji_64.npz``.
        side: Pixels of an image, a divisor of 64; smaller images are means of blocks.
        length: The largest number of words and one for the end; longer captions are cut.
        least: Words that occur fewer times in the training captions are unknown words.
        seed: Which fifth of the groups is the test part.

    Raises:
        InputError: A file that is missing or damaged, or another ``side``.
    """
    check_side("emoji", side, SIDE)
    check_count("emoji", "length", length, 2)
    check_count("emoji", "least", least)
    path = root / "noto_emoji_text" / _FILE
    arrays = npz(path, _WANTED, "image")
    image, silhouette = arrays["image"], arrays["silhouette"]
    if image.shape[1:] != (SIDE, SIDE, 3) or silhouette.shape[1:] != (SIDE, SIDE):
        raise InputError(
            f"{path}: got images of shape {image.shape[1:]} and silhouettes of shape {silhouette.shape[1:]}; expected "
            f"({SIDE}, {SIDE}, 3) and ({SIDE}, {SIDE}); put a sound copy there"
        )
    groups = [points.split("_")[0] for points in arrays["codepoints"].tolist()]
    kinds = sorted(set(groups))
    held = {
        kinds[place] for place in permutation(len(kinds), seed, 0)[: max(1, round(_HELD_OUT * len(kinds)))]
    }
    test = np.array([group in held for group in groups])
    sentences = [cut(said, length) for said in arrays["caption"].tolist()]
    training = [said for said, away in zip(sentences, test, strict=True) if said is not None and not away]
    ids, caption = column(sentences, Vocabulary.of(training, least=least), length)
    inside = shrunk(silhouette, side) > (127 if silhouette.max() > 1 else 0)
    return MultimodalData(
        {
            "image": shrunk(image, side).transpose(0, 3, 1, 2),
            "silhouette": inside[:, None].astype(np.uint8),
            "caption": ids,
        },
        groups=groups,
        splits={"train": np.flatnonzero(~test), "test": np.flatnonzero(test)},
        modalities=[
            Modality("image", (3, side, side), params={"scale": 0.1}),
            Modality("silhouette", (1, side, side), likelihood="bernoulli"),
            caption,
        ],
        scale={"image": 1 / 255, "silhouette": 1.0},
        seed=seed,
        root=root,
        card={
            "name": "emoji",
            "version": 1,
            "what": "emoji, their silhouettes and words that describe them",
            "licence": "Noto Emoji: Apache-2.0; annotations: MIT",
            "groups": "the first code point; a fifth of the groups is the test part",
        },
    )
