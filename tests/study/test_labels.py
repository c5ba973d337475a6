"""Labels of a plot cover neither each other nor a mark, and stay near their own."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest

from polyvae.study.config import Plot
from polyvae.study.labels import Box, arranged
from polyvae.study.plots import draw
from polyvae.study.tables import Result

INSIDE = Box(0, 0, 600, 370)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [60, 300])
def test_labels_cover_nothing(seed: int, spread: int) -> None:
    """26 marks at least 8 pixels apart, in one corner or all over the plot."""
    draws, places = np.random.default_rng(seed), []
    while len(places) < 26:
        x, y = draws.uniform(5, (2 * spread, min(spread * 1.2, 365)))
        if all(math.dist((x, y), other) > 8 for other in places):
            places.append((float(x), float(y)))
    texts = [str(number) for number in range(1, 27)]
    boxes = arranged(places, texts, places, INSIDE)
    assert all(box.shared(INSIDE) == pytest.approx(box.area) for box in boxes)
    assert sum(one.shared(other) for one, other in itertools.combinations(boxes, 2)) == 0
    marks = [Box(x - 2, y - 2, x + 2, y + 2) for x, y in places]
    assert sum(box.shared(mark) for box in boxes for mark in marks) == 0
    for (x, y), box in zip(places, boxes, strict=True):
        away = math.dist((x, y), (min(max(x, box.left), box.right), min(max(y, box.bottom), box.top)))
        assert away < 50


def test_a_label_alone_is_beside_its_mark() -> None:
    (box,) = arranged([(300, 200)], ["name"], [(300, 200)], INSIDE)
    assert 300 < box.left < 312
    assert box.bottom < 212
    (box,) = arranged([(598, 200)], ["name"], [(598, 200)], INSIDE)  # at the edge it is on the other side
    assert box.right < 600


@pytest.mark.parametrize("count", [6, 26])
def test_more_marks_than_colours_are_numbered_as_in_the_legend(count: int) -> None:
    results = [
        Result(
            f"{place}/{seed}",
            f"model {place}",
            "",
            {},
            seed,
            1,
            {
                "conditional_frechet_distance": 100.0 + 7 * place + seed,
                "conditional_coherence": 0.5 + 0.01 * place * (-1) ** place,
            },
        )
        for place in range(count)
        for seed in range(3)
    ]
    plot = Plot(kind="tradeoff", x="conditional_frechet_distance", y="conditional_coherence")
    figure = draw(plot, "names", results)
    assert figure is not None
    found = re.findall(r"<text[^>]*>([^<]+)</text>", figure.svg.decode())
    for place in range(count):
        beside, entry = f"model {place}", f"model {place}"
        if count > 6:
            beside, entry = str(place + 1), f"{place + 1}  model {place}"
        assert found.count(entry) == (1 if count > 6 else 2), (
            entry
        )  # of few marks, the name stands beside each
        assert beside in found
    handles = set(re.findall(r'xlink:href="#(\w+)"[^>]*style="fill: #\w{6}; stroke', figure.svg.decode()))
    assert len(handles) >= count  # no two contenders share both colour and mark
