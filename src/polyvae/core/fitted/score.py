"""A score network as fitted prior: multimodal latent diffusion (MLD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from polyvae.core import noise
from polyvae.core.fitted.base import (
    FittedPrior,
    check_samples,
    checked_tensors,
    columns_of,
    misfit,
    stored_blocks,
)
from polyvae.core.fitted.diffusion import marginal, rate
from polyvae.core.fitted.score_net import ScoreNet
from polyvae.utils.errors import InputError, is_number, nearest

EULER = 250  # steps from t = 1 to t = 0
OFTEN = 0.75  # the probability of the blocks that are most often given
AVERAGE = 0.999  # of the moving average of the parameters


class Design(NamedTuple):
    """What distinguishes two ways of training.

    Attributes:
        clean: The probability that a subset of the blocks stays clean in training.
        power: t = u^power with u uniform.
        lr: The learning rate at the start.
        absent: The probability that this subset is absent instead.
    """

    clean: float
    power: int
    lr: float
    absent: float = 0.0


DESIGNS = {
    "balanced": Design(0.5, 2, 3e-3),
    "published": Design(0.2, 1, 1e-3),
    "guided": Design(0.8, 2, 3e-3, 0.15),
}


class FittedScore(FittedPrior):
    """A score network over the standardised latents, trained by denoising (MLD).

    x_t = m(t) x + s(t) ε, with m and s those of a variance-preserving diffusion, t in (0, 1). In a share of the rows a random subset S of
    the blocks, not empty and not all, stays clean, and its time is 0. The network f predicts −ε, so that f / s(t) is the score:

        L = E (1 + d_S / (D − d_S)) Σ_{columns outside S} (f(x_t, t) + ε)²,  d_S the columns in S

    Draws follow the reverse diffusion from t = 1 to 0 in 250 Euler steps. Blocks that are observed stay at their values, with time 0.

    There are three designs. "published" follows the authors: S is not empty with probability 0.2, and t is uniform. Each subset is then
    seen in few rows (of three blocks, one row in 30), and draws given two blocks of a Gaussian had 1.2 to 1.4 times the exact variance.
    In "balanced", the default, half of the rows have a clean subset, t is the square of a uniform number, the time also multiplies the
    hidden units, and the learning rate is higher. "guided" is for conditional draws: S is not empty with probability 0.8. In 0.15 of these
    rows it is absent: 0, at time 1, and not part of the loss. So the network also knows the score without S, f_0, and with
    ``guidance`` g > 0, conditional draws follow (classifier-free guidance)

        f + g (f − f_0)

    They are closer to what is given and less varied. g = 0 are draws from the conditional; others follow no known density.

    Bounoua, Franzese & Michiardi, Multi-Modal Latent Diffusion, Entropy 26(4):320, 2024. The formulas follow the public code
    (MustaphaBounoua/MLD, mm_sde.py). Ho & Salimans, Classifier-Free Diffusion Guidance, 2022 (arXiv 2207.12598).

    Differs from the authors' code in all designs: S is drawn for each row, not for a batch. The network is a residual network without
    U-shape. −s(t) x_t, the prediction for a standard normal x, is added to its output. s(t) is part of its input, and clean
    columns have weights of their own. The average of the parameters starts with smaller factors. There is no resampling (RePaint) in
    conditional draws.

    Args:
        loc: Means of the latents, [D].
        scale: Their standard deviations, [D].
        hidden: Hidden units.
        layers: Residual layers.
        steps: Training steps, for the record.
        blocks: Columns of z and of each w_m; None: all columns are of z.
        seed: Seed of the initial parameters.
        design: "balanced", "published" or "guided".
        guidance: g, 0 or more; above 0 for the design "guided" only.
        known: Columns of what stands for each block where it is clean; None: the block itself.

    Raises:
        InputError: An unknown design, or a guidance that is not valid.
    """

    kind = "mld"
    least = 20
    conditional = True
    loc: Tensor
    scale: Tensor
    known_loc: Tensor
    known_scale: Tensor

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        hidden: int = 256,
        layers: int = 3,
        steps: int = 4000,
        blocks: Sequence[int] | None = None,
        seed: int = 0,
        design: str = "balanced",
        guidance: float = 0.0,
        known: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_design(design, guidance)
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)
        self.latent, self.design, self.guidance = len(loc), design, float(guidance)
        name = "score network" + ("" if design == "balanced" else f", {design} design")
        self.describe(
            f"{name}, {steps} steps" + (f", guidance {guidance:g}" if guidance else ""),
            blocks,
            hidden=hidden,
            layers=layers,
            steps=steps,
            design=design,
            guidance=self.guidance,
            known=None if known is None else list(known),
        )
        if known is not None:
            self.register_buffer("known_loc", loc.new_zeros(sum(known)))
            self.register_buffer("known_scale", loc.new_ones(sum(known)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = ScoreNet(self.blocks, hidden, layers, design == "published", known).to(loc)

    @property
    def known(self) -> tuple[int, ...] | None:
        sizes = self.settings["known"]
        return None if sizes is None else tuple(sizes)

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        loc, scale = checked_tensors(tensors, "loc", "scale")
        checked_tensors(tensors, *tensors)
        if loc.ndim != 1 or loc.shape != scale.shape or not bool((scale > 0).all()):
            raise misfit(f"loc {tuple(loc.shape)} and scale {tuple(scale.shape)}", "[D] both, scale positive")
        blocks = stored_blocks(settings, len(loc))
        # Each layer has tensors, and each hidden unit numbers, so a small file cannot ask for a large network.
        hidden = _whole(settings, "hidden", max(x.numel() for x in tensors.values()))
        layers = _whole(settings, "layers", len(tensors))
        # Files of older versions contain no design; theirs is the published one.
        design = settings.get("design", "published")
        if design not in DESIGNS:
            raise misfit(f"design={str(design)[:80]!r}", ", ".join(DESIGNS))
        guidance = settings.get("guidance", 0.0)
        if not is_number(guidance) or guidance < 0 or (guidance > 0 and not DESIGNS[design].absent):
            raise misfit(f"guidance={str(guidance)[:80]}", "a number, 0 or more, that its design allows")
        known = settings.get("known")
        most = max(x.numel() for x in tensors.values())
        if known is not None and not (
            isinstance(known, list)
            and len(known) == len(blocks)
            and all(type(size) is int and 0 <= size <= most for size in known)
        ):
            raise misfit(f"known={str(known)[:80]}", "a number of columns for each block")
        with torch.device("meta"):
            expected = ScoreNet(blocks, hidden, layers, design == "published", known).state_dict(
                prefix="net."
            )
        own = {"known_loc", "known_scale"} if known is not None else set()
        shapes = {key: x.shape for key, x in expected.items()}
        shapes |= {key: torch.Size([sum(known or ())]) for key in own}
        if shapes != {key: x.shape for key, x in tensors.items() if key not in ("loc", "scale")}:
            raise misfit("tensors of another network", "those of its hidden units, layers and blocks")
        if own and not bool((tensors["known_scale"] > 0).all()):
            raise misfit("known_scale with other values", "positive numbers")
        steps = _whole(settings, "steps", 2**62)
        prior = cls(loc, scale, hidden, layers, steps, blocks, design=design, guidance=guidance, known=known)
        prior.load_state_dict(dict(tensors))
        return prior.requires_grad_(False)._restored(settings)

    @classmethod
    @torch.enable_grad()
    def fit(
        cls,
        z: Tensor,
        steps: int = 4000,
        seed: int = 0,
        blocks: Sequence[int] | None = None,
        hidden: int = 256,
        layers: int = 3,
        batch_size: int = 256,
        lr: float | None = None,
        design: str = "balanced",
        guidance: float = 0.0,
        known: Sequence[Tensor] | None = None,
        given: Sequence[int] = (),
    ) -> Self:
        """Train the score network; its parameters are a moving average over the training.

        Args:
            z: Draws, [N, D].
            steps: Training steps.
            seed: Seed of parameters, batches and noise.
            blocks: Columns of z and of each w_m; None: all columns are of z.
            hidden: Hidden units.
            layers: Residual layers.
            batch_size: Draws in one step.
            lr: Learning rate at the start, which falls to 0 along a cosine; None: 3e-3, in the published design 1e-3.
            design: "balanced", "published" or "guided".
            guidance: The factor g of conditional draws.
            known: What stands for each block where it is clean, such as posterior means: [N, C_g] for each; None: ``z``.
            given: Blocks that are S in three quarters of the rows in which S is not empty, because they will most often be given.

        Raises:
            InputError: No columns (D = 0), fewer than 20 draws, an unknown design, or a guidance that is not valid.
        """
        check_samples(z, cls.least, "", "give more data")
        z, generator = z.detach(), torch.Generator().manual_seed(seed)
        sizes = None if known is None else [part.shape[1] for part in known]
        prior = cls(
            z.mean(0), z.std(0).clamp(min=1e-6), hidden, layers, steps, blocks, seed, design, guidance, sizes
        )
        x = (z - prior.loc) / prior.scale
        if known is not None:
            clean = torch.cat(list(known), -1).detach()
            prior.known_loc, prior.known_scale = clean.mean(0), clean.std(0).clamp(min=0.01)
            clean = (clean - prior.known_loc) / prior.known_scale
        averaged = AveragedModel(prior.net, avg_fn=_average)
        optimizer = torch.optim.Adam(prior.net.parameters(), lr=DESIGNS[design].lr if lr is None else lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            rows = torch.randint(len(x), (batch_size,), generator=generator).to(x.device)
            optimizer.zero_grad()
            loss = prior.loss(x[rows], generator, None if known is None else clean[rows], given)
            loss.mean().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(prior.net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            averaged.update_parameters(prior.net)
        prior.net.load_state_dict(averaged.module.state_dict())
        return prior.requires_grad_(False)

    def loss(
        self, x: Tensor, generator: torch.Generator, known: Tensor | None = None, given: Sequence[int] = ()
    ) -> Tensor:
        """The denoising loss of standardised latents, per column: [B, D] -> [B].

        Args:
            x: Standardised latents.
            generator: Of time, noise and subsets.
            known: What stands for clean blocks, [B, C], standardised; None: ``x``.
            given: Blocks that are most often given.
        """
        design = DESIGNS[self.design]
        t = torch.rand(len(x), 1, generator=generator).pow(design.power).clamp(min=1e-6).to(x)
        eps = torch.randn(x.shape, generator=generator).to(x)
        clean = subsets(len(x), self.blocks, generator, design.clean, given).to(x.device)
        fixed = columns_of(clean, self.blocks)
        at = marginal(t)
        noisy, times = torch.where(fixed, x, at.m * x + at.s * eps), torch.where(clean, 0, t)
        if design.absent:
            without = (torch.rand(len(x), 1, generator=generator) < design.absent).to(x.device)
            noisy = torch.where(fixed & without, 0, noisy)
            times = torch.where(clean & without, 1, times)
        error = torch.where(fixed, 0, self._network(noisy, times, known) + eps).square()
        share = fixed.to(x).mean(-1)  # 1 + d_S / (D − d_S) = 1 / (1 − d_S / D)
        return error.mean(-1) / (1 - share)

    def draw(self, n: int) -> Tensor:
        start = self.loc.expand(n, -1)
        return self._reverse(start, torch.zeros((n, len(self.blocks)), dtype=torch.bool, device=start.device))

    def complete(self, x: Tensor, observed: Tensor, known: Tensor | None = None) -> Tensor:
        if (known is None) != (self.known is None):
            raise InputError(
                f"fitted prior: got known={'None' if known is None else 'a tensor'}; expected what stands for the blocks that are given "
                "exactly if the prior was fitted with it; call generate of the model"
            )
        return self._reverse(x, observed, known)

    @torch.no_grad()
    def _reverse(self, given: Tensor, observed: Tensor, known: Tensor | None = None) -> Tensor:
        """The reverse diffusion dx = −½ β x dt − β · score dt + β^½ dW, from t = 1 to 0, of the blocks not observed."""
        fixed = columns_of(observed, self.blocks)
        # In training, a block without columns is never clean, so its time is that of the noise here, too.
        observed = observed & torch.tensor(self.blocks, device=observed.device).bool()
        clean = (given - self.loc) / self.scale
        if self.known is not None:
            known = clean.new_zeros(len(clean), sum(self.known)) if known is None else known
            known = (known - self.known_loc) / self.known_scale
        if bool((observed == observed[:1]).all()):
            observed = observed[:1]  # one pattern: the layers for the time run on one row
        x = noise.normal(tuple(given.shape), given, "prior.z", "BD")
        step = 1 / EULER
        for number in range(EULER, 0, -1):
            x = torch.where(fixed, clean, x)
            t = x.new_full((1, 1), number / EULER)
            beta, score = rate(t), self.prediction(x, t, observed, known) / marginal(t).s
            x = x + step * beta * (0.5 * x + score)
            if number > 1:
                x = x + (step * beta).sqrt() * noise.normal(tuple(x.shape), x, "prior.z", "BD")
        return torch.where(fixed, given, self.loc + self.scale * x)

    def prediction(self, x: Tensor, t: Tensor, observed: Tensor, known: Tensor | None = None) -> Tensor:
        """The prediction of −ε with guidance, f + g (f − f_0).

        Args:
            x: Standardised latents, [N, D].
            t: The time, [1, 1].
            observed: Blocks that are given, [N, G] or [1, G].
            known: What stands for these, [N, C], standardised; None: ``x``.

        Returns:
            [N, D].
        """
        f = self._network(x, torch.where(observed, 0, t), known)
        if not self.guidance:
            return f
        without = torch.where(columns_of(observed, self.blocks), 0, x)
        return f + self.guidance * (f - self._network(without, torch.where(observed, 1, t), known))

    def _network(self, x: Tensor, t: Tensor, known: Tensor | None) -> Tensor:
        out: Tensor = self.net(x, t) if known is None else self.net(x, t, known)
        return out


def check_design(design: str, guidance: float) -> None:
    """Raise InputError for an unknown design of a score network, or a guidance that is not valid."""
    if design not in DESIGNS:
        raise InputError(f"fitted prior: unknown design {design!r}; {nearest(design, DESIGNS)}")
    if not is_number(guidance) or guidance < 0:
        raise InputError(
            f"fitted prior: got guidance={guidance!r}; expected a number, 0 or more; 0 is no guidance"
        )
    if guidance and not DESIGNS[design].absent:
        raise InputError(
            f"fitted prior: got guidance={guidance!r} with design {design!r}; expected design 'guided', which learns the score without "
            "what is given; choose it, or leave guidance out"
        )


def subsets(
    rows: int, blocks: Sequence[int], generator: torch.Generator, share: float, given: Sequence[int] = ()
) -> Tensor:
    """The blocks that stay clean, for each row: [rows, G] bool.

    With probability ``share``, a subset of the blocks that have columns: neither none of these nor all, each equally probable. Else none.
    With ``given`` blocks, the subset is these with probability 3/4.
    """
    filled = [g for g, size in enumerate(blocks) if size]
    out = torch.zeros((rows, len(blocks)), dtype=torch.bool)
    if len(filled) < 2:
        return out
    code = torch.randint(1, 2 ** len(filled) - 1, (rows, 1), generator=generator)
    if given:
        often = torch.rand(rows, 1, generator=generator) < OFTEN
        code = torch.where(often, sum(1 << place for place, g in enumerate(filled) if g in given), code)
    code = torch.where(torch.rand(rows, 1, generator=generator) < share, code, 0)
    out[:, filled] = (code >> torch.arange(len(filled))) % 2 == 1
    return out


def _whole(settings: Mapping[str, Any], key: str, most: int) -> int:
    """A stored whole number from 1 to ``most``."""
    value = settings.get(key)
    if type(value) is not int or not 1 <= value <= most:
        raise misfit(f"{key}={value!r}", "a whole number, 1 or more, as in the tensors stored")
    return value


def _average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """A moving average whose factor starts small, so that it does not remember the initial parameters."""
    n = float(count)
    return torch.lerp(current, averaged, min(AVERAGE, (1 + n) / (10 + n)))
