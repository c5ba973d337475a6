"""Inference with a trained model: latents, generation, likelihood estimates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from polyvae.core import covariates as conditioning
from polyvae.core import noise
from polyvae.core.aggregate import Experts
from polyvae.core.batch import Batch, OnHost
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.facts import Facts
from polyvae.core.fitted import FittedPrior
from polyvae.core.modalities import Modalities
from polyvae.core.modality import Modality
from polyvae.core.priors import ConditionalPrior, MixturePrior, PseudoPrior, StandardPrior, TopDownPrior
from polyvae.core.separate import blocks_of_each, complete_each, decode_each
from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError, check_count, nearest

_DEFENCE = 0.1  # share of the draws that comes from the prior, so that weights stay bounded
_ROWS = 8192  # latents that ``log_marginal`` and resampling decode at a time


class Draws(NamedTuple):
    """Draws of the latents given what was observed.

    Attributes:
        z: The shared latents, [K, B, D].
        w: The private latents, [K, B, W].
        log_q: Their joint log-density, [K, B]; NaN where the model has it up to a constant only (``jnf``).
    """

    z: Tensor
    w: Tensor
    log_q: Tensor


class Latents(NamedTuple):
    """Values of all latents.

    Attributes:
        z: The shared latents, [..., B, D].
        w: The private latents, [..., B, W].
    """

    z: Tensor
    w: Tensor


class Estimate(NamedTuple):
    """An estimate of a log-likelihood in nats.

    Attributes:
        value: [B].
        standard_error: [B].
        effective_samples: [B], the effective sample size of the importance weights.
    """

    value: Tensor
    standard_error: Tensor
    effective_samples: Tensor


class Inference(nn.Module, ABC):
    """Posterior inference, generation and likelihood estimates, given ``posterior`` and ``private``.

    Attributes:
        modalities: name -> ModalityNet, the networks of all modalities.
        prior: p(z) and p(w | z).
    """

    name: ClassVar[str]
    facts: Facts
    modalities: Modalities
    prior: StandardPrior | MixturePrior | ConditionalPrior | TopDownPrior | PseudoPrior

    # ---- what a paper defines ------------------------------------------------------------------------------

    @abstractmethod
    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        """q(z | what was observed), for any mask: components [V, B, D]. It draws nothing."""

    @abstractmethod
    def private(self, batch: Batch, experts: Experts, z: Tensor, p_w: Diagonal) -> Diagonal:
        """q(w | z, what was observed), for any mask. Most models use ``private = own_or_prior``.

        Args:
            batch: The data.
            experts: The experts of the encoded modalities.
            z: [..., B, D].
            p_w: p(w | z), [..., B, W], already computed by the caller.

        Returns:
            [..., B, W].
        """

    # ---- the batch -----------------------------------------------------------------------------------------

    @property
    def shared(self) -> int:
        """Columns of z, D."""
        return self.prior.z().mean.shape[-1]

    @property
    def blocks(self) -> tuple[int, ...]:
        """Columns of z, then columns of each w_m: the blocks of a prior that is fitted to all latents."""
        return self.shared, *(span.stop - span.start for span in self.modalities.columns)

    @property
    def specs(self) -> list[Modality]:
        """The specifications of the modalities."""
        return [net.spec for net in self.modalities.values()]

    def admit(self, batch: Batch, values: bool = False) -> Batch:
        """Validate a batch and convert it to the order, dtype and device of the model.

        Modalities that the batch lacks become missing.

        Args:
            batch: The data.
            values: Also check that the observed values are possible under their likelihoods.

        Raises:
            InputError: Not a Batch, an unknown modality, a wrong shape, or an impossible value.
        """
        if not isinstance(batch, Batch):
            raise InputError(
                f"{self.name}: got {type(batch).__name__}; expected a Batch; Batch.of({{name: tensor}}) "
                "makes one, and so does data.take(rows)"
            )
        for name, x in batch.data.items():
            if name not in self.modalities:
                raise InputError(f"modality {name!r} is not in the model; {nearest(name, self.modalities)}")
            shape = self.modalities[name].spec.shape
            if tuple(x.shape[1:]) != shape:
                raise InputError(
                    f"modality {name!r}: got samples of shape {tuple(x.shape[1:])}; expected {shape}; "
                    + ("resize them" if _differ_in_size(tuple(x.shape[1:]), shape) else "reshape them")
                    + ", or change the shape of the Modality"
                )
        if self.modalities.conditioned:
            declared = {name: net.covariates for name, net in self.modalities.items()}
            conditioning.check_known(self.name, declared, batch.covariates)
        like = next(self.parameters())
        if tuple(batch.data) != tuple(self.modalities):
            batch = self._complete(batch)
        numbers = [x for x in batch.covariates.values.values() if x.is_floating_point()]
        if any(x.dtype != like.dtype for x in (*batch.data.values(), *numbers)):
            self._check_exact(like.dtype)
            batch = batch.to(batch.device, like.dtype)
        if values:
            self._check_values(batch)  # before it is moved: on a GPU every check would be waited for
        return batch if batch.device == like.device else batch.to(like.device)

    def experts(self, batch: Batch) -> Experts:
        """The experts of all encoded modalities, one encoder call each."""
        return self.modalities.encode(batch)

    def draw(self, batch: Batch, K: int = 1) -> Draws:
        """Draw all latents given what was observed.

        A component is drawn for each sample and draw. Where nothing was observed, the latents are drawn
        from the prior.

        Args:
            batch: The data.
            K: Draws per sample.

        Returns:
            ``z`` [K, B, D], ``w`` [K, B, W] and ``log_q`` [K, B].
        """
        check_count("draw", "K", K)
        return self._draw(self.admit(batch), K)[0]

    @torch.no_grad()
    def draw_latents(self, batch: Batch, K: int = 1, prior: FittedPrior | None = None) -> Latents:
        """Draw all latents given what was observed; with a fitted prior, conditional draws of what was not inferred.

        z and the private latents of observed modalities are drawn from the posterior, as by ``draw``. With
        ``prior``, the others are then drawn from its distribution given these. A sample of which nothing was
        observed has unconditional draws.

        Args:
            batch: The data.
            K: Draws per sample.
            prior: A prior that was fitted to all latents; None: the same latents as ``draw``.

        Returns:
            ``z`` [K, B, D] and ``w`` [K, B, W].

        Raises:
            InputError: The prior is over other latents, such as those of each modality, or has no conditional draws.
        """
        check_count("draw_latents", "K", K)
        if prior is None:
            return Latents(*self.draw(batch, K)[:2])
        self._check_one_z("draw_latents", prior, "generate")
        self._check_conditional("draw_latents", prior)
        batch = self.admit(batch)
        draws, inferred = self._draw(batch, K)
        rows = (
            (~inferred[:, to_device(torch.tensor(self.blocks), inferred.device) > 0]).any(-1).nonzero()[:, 0]
        )
        latents = torch.cat([draws.z, draws.w], -1)  # [K, B, D + W]
        known = inferred[rows].expand(K, -1, -1).flatten(0, 1)
        completed = prior.complete(latents[:, rows].flatten(0, 1), known)
        latents[:, rows] = completed.view(K, len(rows), sum(self.blocks))
        return self._split(latents)

    def draw_shared(self, batch: Batch, experts: Experts, K: int) -> tuple[Tensor, Tensor]:
        """Draw z given what was observed, and its log-density.

        A model whose posterior is no mixture of diagonal components overrides this method. Its ``posterior`` is then
        an approximation, for ``embed`` and as the proposal of importance sampling.

        Args:
            batch: The data.
            experts: The experts of the encoded modalities.
            K: Draws per sample.

        Returns:
            z [K, B, D] and log q(z) [K, B].
        """
        q = self.posterior(batch, experts)
        z = self._draw_z(q, K)
        return z, self._log_q_z(q, z)

    @torch.no_grad()
    def draw_prior(self, n: int, prior: FittedPrior | None = None) -> Latents:
        """Draw all latents unconditionally.

        Args:
            n: Number of draws.
            prior: A fitted prior from which z is drawn, and w if it was fitted to all latents; otherwise w is
                drawn from p(w | z). None: the prior of the model.

        Returns:
            ``z`` [n, D] and ``w`` [n, W].

        Raises:
            InputError: The fitted prior is over other latents.
        """
        check_count("draw_prior", "n", n)
        if prior is not None:
            self._check_one_z("draw_prior", prior, "sample")
            self._check_prior("draw_prior", prior)
            if prior.latents == "all":
                return self._split(prior.draw(n))
        z = (self.prior if prior is None else prior).draw(n)
        return Latents(z, self.prior.w(z).rsample(None, "w", "BW"))

    @torch.no_grad()
    def embed(self, batch: Batch, private: bool = False) -> Tensor:
        """The posterior mean of the latents.

        Args:
            batch: The data. Where nothing was observed, the result is the mean of the prior.
            private: Append the means of the private latents.

        Returns:
            [B, D], or [B, D + W] with ``private``. A model without a shared latent (D = 0) returns
            [B, W].
        """
        batch = self.admit(batch, values=True)
        experts = self.experts(batch)
        q = self.posterior(batch, experts)
        z = torch.where(q.observed[:, None], q.mean, self.prior.z().mean)
        if not private and self.shared:
            return z
        w = self.private(batch, experts, z, self.prior.w(z)).mean
        return torch.cat([z, w], -1) if self.shared else w

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        K: int = 1,
        sample: bool = False,
        resample: bool = False,
        prior: FittedPrior | None = None,
        covariates: Mapping[str, Any] | None = None,
        targets: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Generate every modality given what was observed.

        Args:
            batch: The data; ``batch.observe("image")`` conditions on one modality.
            K: Draws of the latents per sample.
            sample: Draw from the likelihood; otherwise return its mean.
            resample: Draw 32 K (at least 256) latents from a defended proposal and resample K of them by
                importance weights. This brings them closer to the exact posterior.
            prior: A prior that was fitted to all latents. Latents of missing modalities are drawn from it,
                given those that were inferred (see ``draw_latents``). If it was fitted to the latents of each
                modality, every modality is decoded from its own.
            covariates: name -> [B], or one value for all: values that the decoders are given in place of the samples' own, such as
                {"batch": "b"}, for what the samples would be in batch b. The latents are inferred given their own values.
            targets: The modalities to generate; None: all that are decoded.

        Returns:
            name -> [K, B, *shape]. Counts of a modality that was observed have the
            library size of their sample, also at missing entries; those of a missing modality have the likelihood's own.

        Raises:
            InputError: ``resample`` with a model that has no joint density or with ``prior``; a prior over
                other latents or without conditional draws; a level that is not known.
        """
        check_count("generate", "K", K)
        if prior is not None:
            if resample:
                raise InputError(
                    "generate: got prior and resample=True; expected one of them; leave resample out"
                )
            self._check_conditional("generate", prior)
        if resample:
            self._check_density("generate")
        batch = self.admit(batch, values=True)
        like = batch if covariates is None else self._counterfactual(batch, covariates)
        if prior is not None and prior.latents == "each":
            return decode_each(self, complete_each(self, batch, K, prior), sample, like, targets)
        z, w = self._resampled(batch, K) if resample else self.draw_latents(batch, K, prior)
        return self.modalities.decode(z, w, sample, like, targets)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        prior: FittedPrior | None = None,
        sample: bool = False,
        covariates: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """Generate new samples of every modality (unconditional generation).

        Args:
            n: Number of samples.
            prior: A fitted prior from which z is drawn, and w if it was fitted to all latents; otherwise w is
                drawn from p(w | z). None: the prior of the model.
            sample: Draw from the likelihood; otherwise return its mean.
            covariates: name -> [n], or one value for all; the first level and the mean of those that are not named.

        Returns:
            name -> [n, *shape], for every modality that is decoded.

        Raises:
            InputError: The fitted prior has a different number of columns.
        """
        check_count("sample", "n", n)
        if prior is not None:
            self._check_prior("sample", prior)
            if prior.latents == "each":
                latents = prior.draw(n)
                like = None if covariates is None else self._with_reference(latents, covariates)
                return decode_each(self, latents, sample, like)
        return self.decode(*self.draw_prior(n, prior), sample, covariates)

    def log_likelihood(self, batch: Batch, z: Tensor, w: Tensor, decoded: Tensor | None = None) -> Tensor:
        """log p(x_m | z, w_m) in nats, unweighted.

        Args:
            batch: The data.
            z: [..., B, D].
            w: [..., B, W].
            decoded: [M, ..., B] bool, the terms to compute; None: all.

        Returns:
            [M, ..., B], 0 for terms that were not observed or not computed.
        """
        return self.modalities.log_likelihood(batch, z, w, decoded)

    def decode(
        self, z: Tensor, w: Tensor, sample: bool = False, covariates: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Decode latents.

        Args:
            z: The shared latents, [..., D].
            w: The private latents, [..., W].
            sample: Draw from the likelihood; otherwise return its mean.
            covariates: name -> one value for all, or a value for each of the last leading axis of the latents; the first
                level and the mean of those that are not named.

        Returns:
            name -> [..., *shape], for every modality that is decoded.

        Raises:
            InputError: A level that is not known.
        """
        like = None if covariates is None else self._with_reference(z, covariates)
        return self.modalities.decode(z, w, sample, like)

    @torch.no_grad()
    def log_marginal(
        self, batch: Batch, given: Sequence[str] | None = None, K: int = 1000, rows: int = _ROWS
    ) -> Estimate:
        """Estimate log p(x) of what was observed, or its conditional density, by importance sampling.

        The proposal is defended: it is a mixture of the posterior and, with weight 1/10, the prior. The
        same share of the draws comes from the prior. Likelihood weights are 1. The estimate is biased
        low by about half its squared error.

        Args:
            batch: The data.
            given: Modalities to condition on; None: none.
            K: Draws per sample, at least 20.
            rows: Decode at most about this many latents at a time.

        Returns:
            ``value`` [B] in nats per sample, its ``standard_error`` [B], and ``effective_samples`` [B].

        Raises:
            InputError: The model has no joint density, or K is too small.
        """
        self._check_density("log_marginal")
        if K < 20:
            raise InputError(f"log_marginal: got K={K}; expected at least 20 draws; 1000 is usual")
        batch = self.admit(batch, values=True)
        step = max(1, rows // K)
        parts = [
            self._log_marginal(batch.rows(slice(start, start + step)), K)
            for start in range(0, batch.size, step)
        ]
        whole = Estimate(*(torch.cat(part) for part in zip(*parts, strict=True)))
        if not given:
            return whole
        part = self.log_marginal(batch.observe(*given), None, K, rows)
        return Estimate(
            whole.value - part.value,
            torch.hypot(whole.standard_error, part.standard_error),
            torch.minimum(whole.effective_samples, part.effective_samples),
        )

    # ---- details -------------------------------------------------------------------------------------------

    def _check_density(self, what: str) -> None:
        if not self.facts.density:
            raise InputError(
                f"{what}: got {self.name}, a model without a joint density; expected a model whose facts "
                "include one; compare coherence, or generate without resample"
            )

    def _check_one_z(self, what: str, prior: FittedPrior, other: str) -> None:
        if prior.latents == "each":
            raise InputError(
                f"{what}: got a fitted prior over the latents of each modality, which have a z each; expected one with a single z; "
                f"call {other}, or fit one with latents='all'"
            )

    def _check_prior(self, what: str, prior: FittedPrior) -> None:
        each = prior.latents == "each"
        blocks = blocks_of_each(self) if each else self.blocks
        if prior.latents != "z" and prior.blocks != blocks:
            which = "the latents of each modality" if each else "z and of each private latent"
            raise InputError(
                f"{what}: got a fitted prior over blocks of {list(prior.blocks)} columns; expected "
                f"{list(blocks)}, those of {which} of {self.name}; fit it to this model"
            )
        if prior.latents == "z" and prior.latent != self.shared:
            raise InputError(
                f"{what}: got a fitted prior over {prior.latent} columns; expected the {self.shared} shared "
                f"columns of {self.name}; "
                + (
                    "fit it to this model"
                    if self.shared
                    else "sample from its own prior, or fit one with latents='all'"
                )
            )

    def _check_conditional(self, what: str, prior: FittedPrior) -> None:
        if prior.latents == "z":
            raise InputError(
                f"{what}: got a fitted prior over z alone; expected one over all latents, because z is inferred; "
                "fit one with latents='all'"
            )
        self._check_prior(what, prior)
        if not prior.conditional:
            raise InputError(
                f"{what}: got a fitted prior of kind {prior.kind!r}, which has no conditional draws; expected "
                "'gmm' or 'mld'; fit one of these with latents='all'"
            )

    def _draw(self, batch: Batch, K: int) -> tuple[Draws, Tensor]:
        """Draws [K, B, ...], and which blocks (z, then each w_m) were inferred, [B, G] bool."""
        experts = self.experts(batch)
        z, log_q = self.draw_shared(batch, experts, K)
        q_w = self.private(batch, experts, z, self.prior.w(z))
        w = q_w.rsample(None, "w", "KBW")
        seen = torch.zeros_like(batch.mask)
        seen[self.modalities.encoded_rows] = experts.mask
        inferred = torch.cat([experts.mask.any(0)[None], seen]).T
        return Draws(z, w, log_q + q_w.log_prob(w)), inferred

    def _split(self, latents: Tensor) -> Latents:
        return Latents(latents[..., : self.shared], latents[..., self.shared :])

    def _complete(self, batch: Batch) -> Batch:
        like = next(iter(batch.data.values()))
        masks, data = dict(zip(batch.data, batch.mask, strict=True)), {}
        for name, net in self.modalities.items():
            data[name] = (
                batch.data[name] if name in batch.data else like.new_zeros((batch.size, *net.spec.shape))
            )
        on_host = None
        if batch.on_host is not None:
            masks_there = dict(zip(batch.data, batch.on_host.mask, strict=True))
            on_host = OnHost(self._rows_of(masks_there, batch.size))
        complete = batch.complete and len(masks) == len(data)
        return batch._replace(
            data=data, mask=self._rows_of(masks, batch.size), complete=complete, on_host=on_host
        )

    def _rows_of(self, masks: Mapping[str, Tensor], size: int) -> Tensor:
        """The mask in the order of the modalities, [M, B], from those of single modalities; False for one that is not named."""
        like = next(iter(masks.values()))
        nothing = torch.zeros(size, dtype=torch.bool, device=like.device)
        return torch.stack([masks.get(name, nothing) for name in self.modalities])

    def _counterfactual(self, batch: Batch, covariates: Mapping[str, Any]) -> Batch:
        """The same samples with other values of covariates. Raises InputError: a name or a level that is not known."""
        declared = [one for net in self.modalities.values() for one in net.covariates]
        conditioning.check_names(covariates, declared)
        return self.admit(batch.with_covariates(covariates))

    def _with_reference(self, z: Tensor, covariates: Mapping[str, Any]) -> Batch:
        """Samples of which nothing but covariates is known, one for each of the last leading axis of z."""
        rows = z.shape[-2] if z.ndim > 1 else 1
        declared = [one for net in self.modalities.values() for one in net.covariates]
        conditioning.check_names(covariates, declared)
        usual = {
            one.name: one.mean if one.levels is None else one.levels[0]
            for one in reversed(declared)
            if one.name not in covariates
        }
        given = conditioning.covariates_of({**usual, **covariates}, rows, z.device)
        conditioning.check_known(
            self.name, {name: net.covariates for name, net in self.modalities.items()}, given
        )
        nothing = torch.zeros(len(self.modalities), rows, dtype=torch.bool, device=z.device)
        return Batch({}, nothing, covariates=given)

    def _check_exact(self, dtype: torch.dtype) -> None:
        """Ids and ranks are numbers of the model's dtype; one of few digits would turn some into others."""
        for name, net in self.modalities.items():
            if net.likelihood.largest > 2 / torch.finfo(dtype).eps:
                raise InputError(
                    f"modality {name!r}: got whole numbers up to {net.likelihood.largest} for a model in {dtype}, which rounds them; "
                    "expected a model in float32 or float64; convert it with model.float() (training in bf16 keeps it so)"
                )

    def _check_values(self, batch: Batch) -> None:
        for row, (name, net) in zip(batch.mask, self.modalities.items(), strict=True):
            x = batch.data[name][row]
            entries = batch.entries.get(name)
            observed = torch.ones_like(x, dtype=torch.bool) if entries is None else entries[row]
            invalid = net.likelihood.invalid(x, observed) if bool(observed.any()) else ""
            if invalid:
                raise InputError(
                    f"modality {name!r} ({net.spec.likelihood}): got {invalid}; {net.likelihood.remedy}"
                )

    def _draw_z(self, q: Mixture, K: int) -> Tensor:
        z = q.pick(q.choose(K)).rsample(None, "z", "KBD")
        observed = q.observed if q.on_host is None else q.on_host.any(1).any(0)
        if bool(observed.all()):
            return z
        from_prior = self.prior.draw(K * z.shape[1]).view_as(z)
        return torch.where(q.observed[:, None], z, from_prior)

    def _log_q_z(self, q: Mixture, z: Tensor) -> Tensor:
        return torch.where(q.observed, q.log_prob(z), self.prior.z().log_prob(z))

    def _defended(self, batch: Batch, K: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """Draws from the defended proposal, the last tenth of them from the prior, and their log-weights.

        Returns:
            z [K, B, D], w [K, B, W], log-weights [G, K, B], and the number of draws from the prior. G =
            1 with a shared latent. Without
            one G = M, because the modalities and their weights are independent.
        """
        prior_draws = max(1, round(_DEFENCE * K))
        experts = self.experts(batch)
        q = self.posterior(batch, experts)
        z = torch.cat(
            [
                self._draw_z(q, K - prior_draws),
                self.prior.draw(prior_draws * batch.size).view(prior_draws, batch.size, self.shared),
            ]
        )
        p_w = self.prior.w(z)
        q_w = self.private(batch, experts, z, p_w)
        prior = torch.arange(K, device=z.device)[:, None, None] >= K - prior_draws
        w = p_w.where(prior, q_w).rsample(None, "w", "KBW")
        log_x = self.modalities.log_likelihood(batch, z, w)  # [M, K, B]
        log_p_w, log_q_w = (self.modalities.by_owner(law.columns(w)) for law in (p_w, q_w))
        if self.shared:
            log_x, log_p_w, log_q_w = (x.sum(0, keepdim=True) for x in (log_x, log_p_w, log_q_w))
        log_p = log_p_w + self.prior.z().log_prob(z)
        log_q = log_q_w + self._log_q_z(q, z)
        share = prior_draws / K
        log_proposal = torch.logaddexp(math.log1p(-share) + log_q, math.log(share) + log_p)
        return z, w, log_x + log_p - log_proposal, prior_draws

    def _log_marginal(self, batch: Batch, K: int) -> Estimate:
        _, _, log_weight, prior_draws = self._defended(batch, K)
        top = log_weight.amax(1, keepdim=True)
        weight = (log_weight - top).exp()  # [G, K, B]
        mean = weight.mean(1)
        value = (mean.log() + top[:, 0]).sum(0)
        variance = torch.zeros_like(mean)
        for part in (weight[:, : K - prior_draws], weight[:, K - prior_draws :]):
            if part.shape[1] > 1:
                variance += (part.shape[1] / K) ** 2 * part.var(1) / part.shape[1]
        effective = weight.sum(1).square() / weight.square().sum(1)
        observed = batch.mask.any(0)
        return Estimate(
            torch.where(observed, value, 0), (variance / mean.square()).sum(0).sqrt(), effective.amin(0)
        )

    def _resampled(self, batch: Batch, K: int) -> tuple[Tensor, Tensor]:
        draws = max(256, 32 * K)
        step = max(1, _ROWS // draws)
        if batch.size > step:
            parts = [
                self._resampled(batch.rows(slice(at, at + step)), K) for at in range(0, batch.size, step)
            ]
            z, w = (torch.cat(part, 1) for part in zip(*parts, strict=True))
            return z, w
        z, w, log_weight, _ = self._defended(batch, draws)
        if self.shared:
            choice = noise.choice(log_weight[0].softmax(0), K, "resample", "KB")[..., None]
            return z.gather(0, choice.expand(-1, -1, z.shape[2])), w.gather(
                0, choice.expand(-1, -1, w.shape[2])
            )
        chosen = []
        for m, span in enumerate(self.modalities.columns):
            choice = noise.choice(log_weight[m].softmax(0), K, "resample", "KB")[..., None]
            part = w[..., span]
            chosen.append(part.gather(0, choice.expand(-1, -1, part.shape[2])))
        return z[:K], torch.cat(chosen, -1)


def _differ_in_size(given: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether these are images of the same channels in two sizes."""
    return len(given) == len(expected) >= 3 and given[0] == expected[0]
