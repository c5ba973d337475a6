"""The captions of ``shapes_captions``: a small regular grammar, which is written and parsed by rule, so that their judge is exact."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Literal

import torch

from polyvae.data.attributes import Reading

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "cross"),
    "colour": ("red", "yellow", "green", "blue", "purple", "white"),
    "size": ("small", "large"),
    "fill": ("plain", "hollow"),
    "position": ("left", "right", "top", "bottom", "middle"),
    "background": ("dark", "light"),
}
Style = Literal["template", "paraphrase", "partial"]
LENGTH = 17  # the longest caption has 16 words; then it ends
ORDERS = 5

# Attribute -> for each class its words; the first is that of the template. No word occurs twice.
_WORDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "shape": (("circle", "disc"), ("square", "box"), ("triangle",), ("cross", "plus")),
    "colour": (
        ("red", "crimson"),
        ("yellow", "golden"),
        ("green", "emerald"),
        ("blue", "azure"),
        ("purple", "violet"),
        ("white", "ivory"),
    ),
    "size": (("small", "little", "tiny"), ("large", "big", "huge")),
    "fill": (("plain", "solid", "filled"), ("hollow", "empty", "outlined")),
    "position": (("left",), ("right",), ("top",), ("bottom",), ("middle", "centre")),
    "background": (("dark", "black"), ("light", "bright", "pale")),
}
_NOUNS = ("shape", "object", "thing", "figure")  # where the shape is not stated
_BEFORE_SIDE = (("on", "at", "to"), ("on", "at", "to"), ("at", "near"), ("at", "near"), ("in",))
_BEFORE_GROUND = ("on", "against", "over")
_SMALL = (
    "a",
    "an",
    "the",
    "there",
    "is",
    "that",
    "and",
    "on",
    "at",
    "to",
    "near",
    "in",
    "against",
    "over",
    "background",
)
WORDS: tuple[str, ...] = (
    *_SMALL,
    *_NOUNS,
    *(word for own in _WORDS.values() for words in own for word in words),
)


def write(classes: Mapping[str, int], choices: Sequence[int], style: Style) -> str:
    """A caption that states ``classes`` (attribute -> class), which may be some of the attributes.

    Args:
        classes: What is stated.
        choices: Non-negative integers, one per attribute and four more, which choose among synonyms and the order of words.
        style: "template" has one wording; the others have five orders of words, and synonyms.
    """
    free = style != "template"
    pick = iter(choices if free else [0] * len(choices))
    word = {}
    for name, own in _WORDS.items():
        turn = next(pick)
        if name in classes:
            word[name] = own[classes[name]][turn % len(own[classes[name]])]
    order, noun, side, ground = (next(pick) for _ in range(4))
    named = word.get("shape", _NOUNS[noun % len(_NOUNS)])
    adjectives = [word[name] for name in ("size", "fill", "colour") if name in word]
    place, behind = [], []
    if "position" in word:
        before = _BEFORE_SIDE[classes["position"]]
        place = [before[side % len(before)], "the", word["position"]]
    if "background" in word:
        behind = [_BEFORE_GROUND[ground % 3], "a", word["background"], "background"]
    return " ".join(_ordered(order % ORDERS, adjectives, named, place, behind))


def _ordered(order: int, adjectives: list[str], noun: str, place: list[str], behind: list[str]) -> list[str]:
    described = [*adjectives, noun]
    phrase = [_article(described[0]), *described]
    if order == 1:
        return [*place, "there", "is", *phrase, *behind]
    if order == 2:
        return [*behind, *phrase, *place]
    if order in (3, 4) and adjectives:
        listed = " and ".join(adjectives).split()
        if order == 3:
            return ["the", noun, *place, "is", *listed, *behind]
        return [_article(noun), noun, "that", "is", *listed, *place, *behind]
    return [*phrase, *place, *behind]


def read(sentences: Sequence[str]) -> Reading:
    """Parse captions.

    A sentence is grammatical if the grammar can write it, "a" and "an" included. What a sentence states is found word by word, so that it
    is known of sentences that are not grammatical too; an attribute with words of two classes is not stated.

    Args:
        sentences: N captions, words separated by spaces.

    Returns:
        Which are grammatical, and the attributes, −1 where a caption does not state one.
    """
    grammar, lexicon = _grammar(), _lexicon()
    known = {sentence: _parse(sentence, grammar, lexicon) for sentence in set(sentences)}
    rows = [known[sentence] for sentence in sentences]
    found = torch.tensor([row[1] for row in rows], dtype=torch.int64).view(-1, len(ATTRIBUTES))
    return Reading(
        torch.tensor([row[0] for row in rows], dtype=torch.bool),
        dict(zip(ATTRIBUTES, found.unbind(1), strict=True)),
    )


def _parse(
    sentence: str, grammar: re.Pattern[str], lexicon: Mapping[str, tuple[int, int]]
) -> tuple[bool, list[int]]:
    stated = [set[int]() for _ in ATTRIBUTES]
    for word in sentence.split():
        if word in lexicon:
            attribute, number = lexicon[word]
            stated[attribute].add(number)
    return grammar.fullmatch(sentence) is not None, [min(own) if len(own) == 1 else -1 for own in stated]


@cache
def _lexicon() -> dict[str, tuple[int, int]]:
    """Word -> attribute and class."""
    return {
        word: (attribute, number)
        for attribute, own in enumerate(_WORDS.values())
        for number, words in enumerate(own)
        for word in words
    }


@cache
def _grammar() -> re.Pattern[str]:
    """A regular expression for exactly the sentences that ``write`` makes."""
    size, fill, colour, shape = (_any(_flat(name)) for name in ("size", "fill", "colour", "shape"))
    noun = f"(?:{shape}|{_any(_NOUNS)})"
    described = f"(?:{size} )?(?:{fill} )?(?:{colour} )?{noun}"
    phrase = f"{_ARTICLE} {described}"
    places = "|".join(
        f"{_any(before)} the {_any(words)}"
        for before, words in zip(_BEFORE_SIDE, _WORDS["position"], strict=True)
    )
    place, behind = f"(?:{places})", f"{_any(_BEFORE_GROUND)} a {_any(_flat('background'))} background"
    # One, two or three adjectives in their order.
    listed = "(?:" + "|".join(" and ".join(some) for some in _some([size, fill, colour])) + ")"
    orders = (
        f"{phrase}(?: {place})?(?: {behind})?",
        f"(?:{place} )?there is {phrase}(?: {behind})?",
        f"{behind} {phrase}(?: {place})?",
        f"the {noun}(?: {place})? is {listed}(?: {behind})?",
        f"{_ARTICLE} {noun} that is {listed}(?: {place})?(?: {behind})?",
    )
    return re.compile("|".join(orders))


_ARTICLE = "(?:an(?= [aeiou])|a(?= [^aeiou]))"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _any(words: Sequence[str]) -> str:
    return f"(?:{'|'.join(words)})"


def _flat(name: str) -> list[str]:
    return [word for words in _WORDS[name] for word in words]


def _some(parts: Sequence[str]) -> Iterator[list[str]]:
    for number in range(1, 2 ** len(parts)):
        yield [part for place, part in enumerate(parts) if number >> place & 1]
