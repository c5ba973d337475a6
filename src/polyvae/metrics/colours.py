"""Do images show the colours that captions name? The protocol of the MMVAE+ paper's experiment with birds, without its pitfalls.

Each pixel belongs to one of eight classes by hue, saturation and value, or to none. An image agrees with a colour if the colour is one of
the two most frequent classes of its pixels. Backgrounds count, and real photos agree with their own captions in few cases, so a number
alone means little: beside it stand the value of real pairs (the ceiling) and that of the same images and colours in other pairs.

References:
    Palumbo, E., Daunhawer, I., & Vogt, J. E. (2023). MMVAE+: Enhancing the generative quality of multimodal VAEs without compromises. ICLR.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.likelihoods.sequence import Text
from polyvae.core.vae import MultimodalVAE
from polyvae.core.vocabulary import tokens_of
from polyvae.data import MultimodalData
from polyvae.metrics.intervals import shares
from polyvae.utils.errors import InputError, check_count, nearest
from polyvae.utils.seeds import fold_in

COLOURS = ("white", "yellow", "red", "blue", "green", "grey", "brown", "black")
_SPELLINGS = {**{name: name for name in COLOURS}, "gray": "grey"}
_FREQUENT = 2  # an image agrees with a colour that is one of so many most frequent ones
_CHUNK = 500
# The greatest hue of each class on OpenCV's scale, 0 to 180, in ascending order; what is above the last one is red again.
_HUES = ((15, "red"), (24, "brown"), (35, "yellow"), (89, "green"), (158, "blue"), (180, "red"))


def pixel_colours(images: Tensor) -> Tensor:
    """The class of each pixel: black (V ≤ 50), white (S ≤ 18, V ≥ 120), grey (S ≤ 18), or by hue (S ≥ 50, V ≥ 70), on OpenCV's scale.

    Args:
        images: [N, 3, H, W] in [0, 1]; values outside are clipped.

    Returns:
        [N, H, W], numbers in COLOURS; −1 for pixels that belong to no class.
    """
    x = images.clamp(0, 1)
    value, low = x.amax(1), x.amin(1)
    spread = value - low
    red, green, blue = x.unbind(1)
    safe = torch.where(spread > 0, spread, 1)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = (30 * sector).remainder(180).round()
    saturation = (255 * spread / torch.where(value > 0, value, 1)).round()
    value = (255 * value).round()
    found = torch.full_like(hue, -1, dtype=torch.long)
    for most, name in reversed(_HUES):
        found = torch.where((hue <= most) & (saturation >= 50) & (value >= 70), COLOURS.index(name), found)
    pale = saturation <= 18
    found = torch.where(pale & (value >= 50), COLOURS.index("grey"), found)
    found = torch.where(pale & (value >= 120), COLOURS.index("white"), found)
    return torch.where(value <= 50, COLOURS.index("black"), found)


def frequent_colours(images: Tensor, most: int = _FREQUENT) -> Tensor:
    """Which colours are among the ``most`` most frequent ones of an image: [N, 3, H, W] -> [N, 8] bool.

    Of equally frequent colours, those that come first in COLOURS count. A colour without any pixel does not count.
    """
    counts = torch.cat(
        [
            torch.nn.functional.one_hot(pixel_colours(part).flatten(1) + 1, len(COLOURS) + 1).sum(1)[:, 1:]
            for part in torch.split(images, _CHUNK)
        ]
    )
    best = torch.sort(counts, dim=1, descending=True, stable=True).indices[:, :most]
    return torch.zeros_like(counts, dtype=torch.bool).scatter(1, best, True) & (counts > 0)


def named_colours(sentences: Sequence[str]) -> Tensor:
    """The colour that each sentence names most often, the earliest of equally frequent ones: [N], −1 where it names none."""
    found = []
    for sentence in sentences:
        said = [
            COLOURS.index(_SPELLINGS[word]) for word in tokens_of(sentence, "words") if word in _SPELLINGS
        ]
        found.append(max(said, key=lambda one: (said.count(one), -said.index(one))) if said else -1)
    return torch.tensor(found, dtype=torch.long)


def colour_agreement(images: Tensor, colours: Tensor, groups: Tensor | None = None) -> dict[str, Any]:
    """The share of images that agree with a colour, and the share that would if the same images and colours were paired at random.

    Args:
        images: [N, 3, H, W] in [0, 1].
        colours: [N], numbers in COLOURS; samples with −1 are left out.
        groups: [N] integers, equal for samples that depend on each other, such as several captions of one photo. The interval is that
            of independent groups, and samples of one group are never paired at random. None: each sample is a group.

    Returns:
        "share" with its "interval" of 95 %, "shuffled" (the exact mean over all pairs of an image and the colour of another sample), the
        number of "images", and "unclassified", the share of pixels that belong to no class. Empty where no sample has a colour.

    Raises:
        InputError: Images of another shape, or another number of colours.

    Example:
        >>> import torch
        >>> from polyvae.metrics.colours import COLOURS, colour_agreement
        >>> images = torch.zeros(2, 3, 8, 8)
        >>> images[0, 0] = 1  # red; the other one is black
        >>> found = colour_agreement(images, torch.tensor([COLOURS.index("red"), COLOURS.index("black")]))
        >>> found["share"], found["shuffled"]
        (1.0, 0.0)
    """
    if images.ndim != 4 or images.shape[1] != 3 or colours.shape != images.shape[:1]:
        raise InputError(
            f"colours: got images {tuple(images.shape)} and {tuple(colours.shape)} colours; expected [N, 3, H, W] and [N]; pass one "
            "colour for each image"
        )
    kept = colours >= 0
    groups = (torch.arange(len(colours), device=colours.device) if groups is None else groups)[kept]
    images, colours = images[kept], colours[kept]
    count = len(images)
    if not count:
        return {}
    shown = frequent_colours(images)
    agree = shown.gather(1, colours[:, None])[:, 0]
    named = torch.nn.functional.one_hot(colours, len(COLOURS))
    group = torch.unique(groups, return_inverse=True)[1]

    def summed(x: Tensor) -> Tensor:
        """By group: [N, ...] -> [G, ...]."""
        start = torch.zeros(int(group.max()) + 1, *x.shape[1:], dtype=torch.long, device=x.device)
        return start.index_add(0, group, x.long())

    sizes = summed(torch.ones_like(colours))
    estimate = shares(summed(agree)[None], sizes[None])
    assert estimate is not None
    pairs = int((shown.sum(0) * named.sum(0)).sum()) - int((summed(shown) * summed(named)).sum())
    most = count * count - int(sizes.square().sum())
    nothing = sum(int((pixel_colours(part) < 0).sum()) for part in torch.split(images, _CHUNK))
    return {
        "share": estimate.value,
        "interval": estimate.interval,
        "shuffled": pairs / most if most else float("nan"),
        "images": count,
        "unclassified": nothing / images[:, 0].numel(),
    }


@torch.no_grad()
def colour_coherence(
    model: MultimodalVAE,
    data: MultimodalData,
    *,
    image: str = "image",
    caption: str = "caption",
    each: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Generate images for "this bird is completely C" and compare their colours with C.

    The published protocol takes 10 images for each of eight colours, 80 in all, so that one image is 1.25 points; the number of those is
    given as "published", that of all images as "generated". "real" has the captions of ``data`` and their own images: the ceiling.

    Args:
        model: A model with both modalities.
        data: Held-out data with real pairs. Captions that name no colour are left out.
        image: The modality of the images, [3, H, W] in [0, 1].
        caption: The modality of the captions.
        each: Images for each colour, 10 at least.
        seed: The seed of all draws.

    Returns:
        "generated", "published" and "real", each as ``colour_agreement``; "colours", those in the vocabulary; others are left out.

    Raises:
        InputError: A model or data without these modalities, or a vocabulary without a colour.
    """
    check_count("colours", "each", each, 10)
    for name in (image, caption):
        if name not in model.modalities or name not in data.names:
            known = [known for known in model.modalities if known in data.names]
            raise InputError(
                f"colours: modality {name!r} is not in the model and its data; {nearest(name, known)}"
            )
    likelihood = model.modalities[caption].likelihood
    if not isinstance(likelihood, Text):
        raise InputError(
            f"colours: got modality {caption!r} without words; expected captions; name another modality"
        )
    words = likelihood.vocabulary.words
    spelled = {_SPELLINGS[word]: word for word in reversed(words) if word in _SPELLINGS}
    known = [name for name in COLOURS if name in spelled]
    if not known:
        raise InputError(
            f"colours: got captions without any of {', '.join(COLOURS)}; expected some; train with captions that name colours"
        )
    prompts = [f"this bird is completely {spelled[name]}" for name in known]
    ids = torch.as_tensor(likelihood.vocabulary.encode(prompts, model.modalities[caption].spec.shape[0]))
    parameter = next(model.parameters())
    batch = Batch.of(
        {
            **{name: torch.zeros(len(known), *net.spec.shape) for name, net in model.modalities.items()},
            caption: ids.float(),
        }
    )
    batch = batch.to(parameter.device).observe(caption)
    with torch.random.fork_rng():
        torch.manual_seed(fold_in(seed, "colours"))
        made = model.generate(batch, K=each)[image].cpu()  # [K, C, 3, H, W]
    colours = torch.tensor([COLOURS.index(name) for name in known])
    rows = [data.names.index(name) for name in (image, caption)]
    pairs = data.mask[rows].all(0).nonzero()[:, 0]
    said = (
        named_colours(likelihood.vocabulary.decode(data.values(caption, pairs).cpu()))
        if len(pairs)
        else torch.zeros(0, dtype=torch.long)
    )
    groups = None
    if data.groups is not None:
        groups = torch.from_numpy(np.unique(data.groups, return_inverse=True)[1])[pairs.cpu()]
    real = colour_agreement(data.values(image, pairs).cpu(), said, groups) if len(pairs) else {}
    return {
        "generated": colour_agreement(made.flatten(0, 1), colours.repeat(each)),
        "published": colour_agreement(made[:10].flatten(0, 1), colours.repeat(10)),
        "real": real,
        "colours": known,
    }
