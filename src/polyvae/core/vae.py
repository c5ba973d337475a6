"""What all multimodal VAEs share: experts → views → one decode → log-weights → a bound."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from polyvae.core import noise
from polyvae.core.aggregate import Experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import FAMILIES, SCALES, Diagonal, Mixture, Normal
from polyvae.core.fitted import FittedPrior
from polyvae.core.modality import Modalities, Modality, ModalityNet
from polyvae.core.priors import MixturePrior, PseudoPrior, StandardPrior, TopDownPrior
from polyvae.core.recompute import decoded_again, graphless, share_that_counts
from polyvae.utils.errors import LABELS, SELECT, InputError, check_count, nearest

_DEFENCE = 0.1  # share of likelihood samples drawn from the prior, so that weights stay bounded


class Facts(NamedTuple):
    """What a paper's objective is. The laws read it, ``polyvae models`` prints it.

    ``bound``      for β ≥ 1 (K = 1) or β = 1 (any K) and weights 1, the expectation stays below log p(x of what was observed). (A row
                   of which only targets were observed teaches nothing: its bound is 0.)
    ``density``    there is a joint density p(x, z, w), so likelihoods can be estimated.
    ``per_sample``  a batch equals its rows. ``nested`` dropping by mask equals a model built without. ``symmetric`` order is free.
    ``decodes``    decoder calls per modality and step. ``needs`` what it cannot do without. ``labels`` it predicts: every modality is a
                   view, ``source``, or a label, ``target``, and it needs one of each.
    ``again``      how often in a step what was decoded is encoded again: one more call of both networks, where a modality has both.
    ``missing``    what becomes of data in which modalities are missing.
    ``least``, ``most`` modalities that it takes (0: any number). ``pseudo_inputs``: learnt ones stand for a missing modality, so its
                   encoder is called once more, and rows that lack a modality move its network.
    """

    bound: bool
    density: bool
    per_sample: bool
    nested: bool
    symmetric: bool
    decodes: int = 1
    needs: str = ""
    again: int = 0
    missing: str = "trains and infers"
    least: int = 1
    most: int = 0
    pseudo_inputs: bool = False
    labels: bool = False


class Draws(NamedTuple):
    """Latents given what was observed: ``z`` [K, B, D], ``w`` [K, B, W], and their joint log-density ``log_q`` [K, B]."""

    z: Tensor
    w: Tensor
    log_q: Tensor


class Estimate(NamedTuple):
    """A log-likelihood in nats: ``value`` [B], ``standard_error`` [B], ``effective_samples`` [B]."""

    value: Tensor
    standard_error: Tensor
    effective_samples: Tensor


class MultimodalVAE(nn.Module, ABC):
    """The base of every model. A paper says ``posterior``, ``private`` and ``bound``; everything else is final.

    Every constructor keyword is an attribute of the same name, so ``options`` can be read back.

    Attributes: ``modalities`` name -> ModalityNet. ``owner`` [W]: whose column of w it is (index of the modality).
    ``likelihood_weights`` [M]. ``max_rows``: decode at most so many rows at a time, recomputing them in the backward pass; None: all.
    """

    facts: ClassVar[Facts]
    name: ClassVar[str]
    citation: ClassVar[str]
    private_latents: ClassVar[str]  # "yes", "optional", "none", "only private"
    owner: Tensor
    expert_of: Tensor
    encoded_rows: Tensor

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int,
        beta: float,
        family: str,
        scale_map: str,
        seen: int,
        private: int | Sequence[int] | None,
        inferring: Sequence[int] | None = None,
        learn_prior: bool = False,
        prior_components: int = 0,
        max_rows: int | None = None,
    ) -> None:
        """``seen``: columns of z that experts and decoders see. ``private``: columns of w_m where the modality does not say (one number
        for all, or one for each), or None: the model cannot have private codes. ``inferring``: the modalities whose encoders say something
        of z; None: all that are encoded. Raises InputError for anything that cannot be built.
        """
        super().__init__()
        _check(
            type(self).__name__,
            modalities,
            latent=latent,
            beta=beta,
            family=family,
            scale_map=scale_map,
            max_rows=max_rows,
        )
        self.latent, self.beta, self.family, self.scale_map, self.max_rows = (
            latent,
            beta,
            family,
            scale_map,
            max_rows,
        )
        self.seen = seen
        least, most = self.facts.least, self.facts.most or len(modalities)
        if not least <= len(modalities) <= most:
            expected = (
                f"exactly {least}"
                if least == most
                else f"at least {least}"
                if len(modalities) < least
                else f"at most {most}"
            )
            raise InputError(
                f"{self.name}: got {len(modalities)} modalities; expected {expected}; "
                f"{LABELS if len(modalities) < least else SELECT}; or choose a model for any number"
            )
        defaults = private if isinstance(private, Sequence) else [private] * len(modalities)
        sizes = [
            _private(type(self).__name__, spec, default)
            for spec, default in zip(modalities, defaults, strict=True)
        ]
        self.modalities = Modalities(
            {
                spec.name: ModalityNet(
                    spec,
                    seen=seen,
                    private=size,
                    posterior=family,
                    scale=scale_map,
                    expert=inferring is None or m in inferring,
                )
                for m, (spec, size) in enumerate(zip(modalities, sizes, strict=True))
            }
        )
        self.encoded = [m for m, spec in enumerate(modalities) if spec.role != "target"]
        if not self.encoded:
            raise InputError(
                f"{self.name}: got only targets; expected at least one modality that is encoded; give it role='both'"
            )
        owner = [m for m, size in enumerate(sizes) for _ in range(size)]
        position = {m: i for i, m in enumerate(self.encoded)}
        self.register_buffer("owner", torch.tensor(owner, dtype=torch.long), persistent=False)
        self.register_buffer(
            "expert_of",
            torch.tensor([position.get(m, -1) for m in owner], dtype=torch.long),
            persistent=False,
        )
        self.register_buffer("encoded_rows", torch.tensor(self.encoded), persistent=False)
        self.likelihood_weights = tuple(
            float(spec.weight) for spec in modalities
        )  # numbers: a buffer made in float32 would stay rounded
        self.columns = [slice(sum(sizes[:m]), sum(sizes[: m + 1])) for m in range(len(sizes))]
        self.prior: StandardPrior | MixturePrior | TopDownPrior | PseudoPrior = (
            MixturePrior(seen, sum(sizes), family, prior_components)
            if prior_components
            else StandardPrior(seen, sum(sizes), family, learn_prior)
        )

    # ---- what a paper must say ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        """q(z | what was observed), for any mask."""

    @abstractmethod
    def private(self, batch: Batch, experts: Experts, z: Tensor) -> Diagonal:
        """q(w | z, what was observed): z [..., B, D] -> [..., B, W]. For most papers ``private = own_or_prior``."""

    @abstractmethod
    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        """The objective, per datum. ``warm`` in [0, 1] multiplies β."""

    # ---- what all have -----------------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, warm: float = 1.0) -> Bound:
        """The objective in nats per datum [B], zero where nothing was observed, and its terms."""
        batch = self.admit(batch)
        return self.bound(batch, self.experts(batch), warm)

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's keywords and their values."""
        return {
            key: getattr(self, key) for key in inspect.signature(type(self)).parameters if key != "modalities"
        }

    @property
    def shared(self) -> int:
        """Columns of z, D: ``seen``, unless decoders see private codes only (Nexus)."""
        return self.prior.z().mean.shape[-1]

    @property
    def specs(self) -> list[Modality]:
        return [net.spec for net in self.modalities.values()]

    def admit(self, batch: Batch, values: bool = False) -> Batch:
        """The model's door: the batch in the model's order, dtype and device; modalities that it lacks are unobserved.

        ``values`` also asks the likelihoods whether the observed values can be theirs. Raises InputError: unknown modality, wrong shape.
        """
        if not isinstance(batch, Batch):
            raise InputError(
                f"{self.name}: got {type(batch).__name__}; expected a Batch; Batch.of({{name: tensor}}) makes one, "
                "and so does data.take(rows)"
            )
        for name, x in batch.data.items():
            if name not in self.modalities:
                raise InputError(f"modality {name!r} is not in the model; {nearest(name, self.modalities)}")
            shape = self.modalities[name].spec.shape
            if tuple(x.shape[1:]) != shape:
                raise InputError(
                    f"modality {name!r}: got samples of shape {tuple(x.shape[1:])}; expected {shape}; "
                    "reshape them, or say so in Modality"
                )
        like = next(self.parameters())
        if tuple(batch.data) != tuple(self.modalities):
            batch = self._complete(batch)
        if any(x.dtype != like.dtype for x in batch.data.values()) or batch.device != like.device:
            batch = batch.to(like.device, like.dtype)
        if values:
            self._check_values(batch)
        return batch

    def experts(self, batch: Batch) -> Experts:
        """One encoder call per source modality, on the rows that were observed."""
        mask = batch.mask.index_select(0, self.encoded_rows)
        family = FAMILIES[self.family]
        names = list(self.modalities)
        z: list[Diagonal] = []
        like = next(iter(batch.data.values()))
        w = {
            m: family.unit((batch.size, column.stop - column.start), like)
            for m, column in enumerate(self.columns)
        }
        for m in self.encoded:
            net, x, entries = self.modalities[names[m]], batch.data[names[m]], batch.entries.get(names[m])
            if batch.complete:
                codes = net.encode(x, entries)
                z.append(codes.z)
                w[m] = codes.w
            else:
                index, real = self.existing(batch.mask[m])
                unit = family.unit((batch.size, self.seen), like)
                if len(index):
                    codes = net.encode(
                        x.index_select(0, index), None if entries is None else entries.index_select(0, index)
                    )
                    unit = _scatter(unit, index, codes.z, real)
                    w[m] = _scatter(w[m], index, codes.w, real)
                z.append(unit)
        return Experts(family.stack(z), family.cat(list(w.values())), mask)

    def log_likelihood(
        self,
        batch: Batch,
        z: Tensor,
        w: Tensor,
        wanted: Tensor | None = None,
        datum: Tensor | None = None,
        importance: bool = False,
    ) -> Tensor:
        """log p(x_m | z, w_m) in nats, unweighted: z [..., B, D], w [..., B, W] -> [M, ..., B]; one decoder call per modality.

        ``wanted`` [M, ..., B] bool says which terms exist (None: all). What was not observed, or is not wanted, is 0 and never computed.
        ``datum`` [M, B]: whose value of x_m it is, where the last axis of a code is not the batch's own rows. ``importance``: their
        gradients will be weights normalised over the first axis, K; where few of these count, only their rows are gone through backwards
        (`again`), which costs two more decoder calls and saves most of the time and memory.
        """
        terms = []
        lead = z.shape[:-1]
        spared = self._spared(batch, z, w, wanted, datum) if importance else set()
        wanted = None if wanted is None else wanted.expand(len(self.modalities), *lead)
        for m, (name, net) in enumerate(self.modalities.items()):
            if net.decoder is None:
                terms.append(z.new_zeros(lead))
                continue
            rows = None if datum is None else datum[m]
            observed = batch.mask[m] if rows is None else batch.mask[m, rows]
            exists = observed.expand(lead) if wanted is None else observed & wanted[m]
            terms.append(
                self.log_prob_where(
                    net,
                    batch,
                    name,
                    self.code(m, z, w),
                    None if batch.complete and wanted is None else exists,
                    rows,
                    name in spared,
                )
            )
        return torch.stack(terms)

    def log_prob_where(
        self,
        net: ModalityNet,
        batch: Batch,
        name: str,
        code: Tensor,
        exists: Tensor | None,
        datum: Tensor | None = None,
        again: bool = False,
    ) -> Tensor:
        """log p(x | code) of the modality ``name`` as ``net`` decodes it: code [..., B, C] -> [..., B]; one decoder call.

        ``exists`` [..., B] bool says which are asked for (None: all); the others are 0 and never computed. ``datum`` [B]: whose value of
        x it is, where the last axis of a code is not the batch's own rows. ``again``: the backward pass decodes anew the rows that count.
        """
        x, entries, lead = batch.data[name], batch.entries.get(name), code.shape[:-1]
        if exists is None and self.max_rows is None and not again:
            return net.log_prob(x, code, entries, datum)
        index, real = (
            (torch.arange(lead.numel(), device=x.device), True)
            if exists is None
            else self.existing(exists.flatten())
        )
        total = code.new_zeros(lead.numel())
        if len(index):
            column = index % lead[-1]
            rows = column if datum is None else datum.index_select(0, column)
            each = self._log_prob_rows(
                net, x, code.flatten(0, -2).index_select(0, index), rows, entries, again
            )
            total = placed(total, index, each, real)
        return total.view(lead)

    def code(self, m: int, z: Tensor, w: Tensor) -> Tensor:
        """What modality m's decoder sees: z's columns, then w_m's."""
        return torch.cat([z[..., : self.seen], w[..., self.columns[m]]], -1)

    def own(self, membership: Tensor) -> Tensor:
        """Which private columns the members of a view own: include [V, M_sources, B] -> [V, B, W] bool."""
        none = torch.zeros_like(membership[:, :1])
        return torch.cat([membership, none], 1)[:, self.expert_of].transpose(1, 2)

    @property
    def p_z(self) -> Normal:
        """p(z), of a model whose prior is one normal distribution."""
        p = self.prior.z()
        assert isinstance(p, Normal)
        return p

    def to_decode(
        self, batch: Batch, q: Mixture, K: int, stratified: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What to decode of q: z [K, V, B, D], the weights of its views [V, B], and which count, for ``wanted``.

        ``stratified``: K samples of every component. Else K of the mixture, the component drawn per datum and sample: one view.
        """
        if stratified:
            return q.stratified(K), q.weights, self.active(batch, q)
        z = q.pick(q.choose(K)).rsample(None, "z", "KBD")[:, None]
        return z, q.observed[None].to(z.dtype), None if batch.complete else q.observed[None]

    def active(self, batch: Batch, q: Mixture) -> Tensor | None:
        """[V, B] bool, the views that count, for ``wanted``; None where the host knows that all do."""
        return None if batch.complete else q.active

    def members(self, membership: Tensor) -> Tensor:
        """[M, 1, V, B] bool, for ``wanted``: a view [V, M_sources, B] decodes its members, and whatever is a target."""
        active = membership.any(1)
        wanted = [
            membership[:, self.encoded.index(m)] if m in self.encoded else active
            for m in range(len(self.modalities))
        ]
        return torch.stack(wanted)[:, None]

    def weighted(self, log_x: Tensor) -> Tensor:
        """Σ_m s_m log p(x_m | ·): [M, ...] -> [...]."""
        return self.weigh(log_x).sum(0)

    def weigh(self, log_x: Tensor) -> Tensor:
        """s_m log p(x_m | ·): [M, ...]."""
        if all(weight == 1 for weight in self.likelihood_weights):
            return log_x
        return torch.stack(
            [weight * term for weight, term in zip(self.likelihood_weights, log_x, strict=True)]
        )

    def by_owner(self, columns: Tensor) -> Tensor:
        """Sums of private columns by the modality that owns them: [..., W] -> [M, ...]."""
        return torch.stack([columns[..., span].sum(-1) for span in self.columns])

    def terms(self, weights: Tensor, log_x: Tensor, **others: Tensor) -> dict[str, Tensor]:
        """What a bound is made of, to look at: expected log-likelihoods, log_x [M, K, V, B], and others [K, V, B], over views [V, B]."""
        names = [*(f"log_likelihood/{name}" for name in self.modalities), *others]
        with torch.no_grad():
            each = torch.stack([*log_x.mean(1), *(term.mean(0) for term in others.values())])  # [T, V, B]
            return dict(zip(names, over_components(weights, each), strict=True))

    def draw(self, batch: Batch, K: int = 1) -> Draws:
        """K draws of all latents given what was observed; the view is drawn per datum and per sample; the prior where there is none."""
        batch = self.admit(batch)
        experts = self.experts(batch)
        q = self.posterior(batch, experts)
        z = self._draw_z(q, K)
        q_w = self.private(batch, experts, z)
        w = q_w.rsample(None, "w", "KBW")
        return Draws(z, w, self._log_q_z(q, z) + q_w.log_prob(w))

    @torch.no_grad()
    def embed(self, batch: Batch, private: bool = False) -> Tensor:
        """The posterior mean of z [B, D], the prior's where nothing was observed; with ``private`` w's beside it, where D = 0 w's alone."""
        batch = self.admit(batch, values=True)
        experts = self.experts(batch)
        q = self.posterior(batch, experts)
        z = torch.where(q.observed[:, None], q.mean, self.prior.z().mean)
        if not private and self.shared:
            return z
        w = self.private(batch, experts, z).mean
        return torch.cat([z, w], -1) if self.shared else w

    @torch.no_grad()
    def generate(
        self, batch: Batch, K: int = 1, sample: bool = False, resample: bool = False
    ) -> dict[str, Tensor]:
        """Every modality given what was observed: name -> [K, B, *shape].

        The decoder's mean, or with ``sample`` a draw from the likelihood. ``resample``: the latents are drawn anew from 32 K (at least
        256) defended draws by their importance weights, which brings them towards the exact posterior. Raises InputError where it is
        asked of a model without a joint density, which has none.
        """
        if resample:
            self._check_density("generate")
        batch = self.admit(batch, values=True)
        z, w = self._resampled(batch, K) if resample else self.draw(batch, K)[:2]
        return self.decode(z, w, sample)

    @torch.no_grad()
    def sample(self, n: int, prior: FittedPrior | None = None, sample: bool = False) -> dict[str, Tensor]:
        """n new samples of every modality, name -> [n, *shape]: z from the model's prior or from a fitted one, w from p(w | z)."""
        if prior is not None and prior.latent != self.shared:
            raise InputError(
                f"sample: got a fitted prior over {prior.latent} columns; expected the {self.shared} shared columns of "
                f"{self.name}; {'fit it to this model' if self.shared else 'sample from its own prior'}"
            )
        z = (self.prior if prior is None else prior).draw(n)
        return self.decode(z, self.prior.w(z).rsample(None, "w", "BW"), sample)

    def decode(self, z: Tensor, w: Tensor, sample: bool = False) -> dict[str, Tensor]:
        """Latents [..., D], [..., W] -> name -> [..., *shape], for every modality that is decoded."""
        return {
            name: (net.sample if sample else net.mean)(self.code(m, z, w))
            for m, (name, net) in enumerate(self.modalities.items())
            if net.decoder is not None
        }

    @torch.no_grad()
    def log_marginal(
        self, batch: Batch, given: Sequence[str] | None = None, K: int = 1000, rows: int = 8192
    ) -> Estimate:
        """log p(x of what was observed), or given some of it, by importance sampling; biased low by about half its squared error.

        The proposal is defended: a tenth of the samples, and of the density divided by, is the prior's. Weights of modalities are 1.
        ``rows`` bounds how many latents are decoded at a time. Raises InputError where the model has no joint density.
        """
        self._check_density("log_marginal")
        if K < 20:
            raise InputError(f"log_marginal: got K={K}; expected at least 20 samples; 1000 is usual")
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

    # ---- how ---------------------------------------------------------------------------------------------------------------------

    def _check_density(self, what: str) -> None:
        if not self.facts.density:
            raise InputError(
                f"{what}: got {self.name}, a model without a joint density; expected one of those whose facts say that they "
                "have one; compare coherence, or generate without resample"
            )

    def _complete(self, batch: Batch) -> Batch:
        like = next(iter(batch.data.values()))
        lines, data = dict(zip(batch.data, batch.mask, strict=True)), {}
        for name, net in self.modalities.items():
            data[name] = (
                batch.data[name] if name in batch.data else like.new_zeros((batch.size, *net.spec.shape))
            )
        nothing = torch.zeros(batch.size, dtype=torch.bool, device=batch.device)
        mask = torch.stack([lines.get(name, nothing) for name in self.modalities])
        return Batch(data, mask, batch.entries, batch.extra, batch.complete and len(lines) == len(data))

    def _check_values(self, batch: Batch) -> None:
        for row, (name, net) in zip(batch.mask, self.modalities.items(), strict=True):
            x = batch.data[name][row]
            seen = batch.entries[name][row] if name in batch.entries else torch.ones_like(x, dtype=torch.bool)
            complaint = net.likelihood.invalid(x, seen) if bool(seen.any()) else ""
            if complaint:
                raise InputError(
                    f"modality {name!r} ({net.spec.likelihood}): got {complaint}; rescale it or choose another likelihood"
                )

    def existing(self, exists: Tensor) -> tuple[Tensor, bool]:
        """Indices of rows that exist, and whether they are real: while training, a modality without any row gets one that counts nothing,

        because distributed training waits for a gradient of every parameter.
        """
        index = exists.nonzero()[:, 0]
        if self.training and not len(index):
            return index.new_zeros(1), False
        return index, True

    def _spared(
        self, batch: Batch, z: Tensor, w: Tensor, wanted: Tensor | None, datum: Tensor | None
    ) -> set[str]:
        """The modalities to decode without a graph: all that can be, where of the weights over K, z [K, ..., B, D], under half will count.

        Asked of the likelihoods of a sixteenth of the batch; the latents' densities are small beside them. Where they are not, time is
        lost, and nothing else.
        """
        rows, some = z.shape[:-1].numel(), slice(0, (batch.size + 8) // 16)
        names = {
            name
            for name, net in self.modalities.items()
            if net.decodes_again(rows, batch.size, name in batch.entries)
            and not batch.data[name].requires_grad
        }
        if not names or len(z) < 3 or not some.stop or datum is not None or not torch.is_grad_enabled():
            return set()
        with graphless(z):
            z, w = z.detach()[..., some, :], w.detach()[..., some, :]
            log_x = self.log_likelihood(batch.rows(some), z, w, None if wanted is None else wanted[..., some])
        return names if share_that_counts(self.weighted(log_x)) < 0.5 else set()

    def _log_prob_rows(
        self, net: ModalityNet, x: Tensor, code: Tensor, datum: Tensor, entries: Tensor | None, again: bool
    ) -> Tensor:
        """log p(x[datum] | code), row by row; in chunks that are recomputed in the backward pass where ``max_rows`` says so."""

        def some(code: Tensor, datum: Tensor) -> Tensor:
            return net.log_prob(x, code, entries, datum)

        if again:
            assert net.decoder is not None
            learnt = [
                part
                for part in (*net.decoder.parameters(), *net.likelihood.parameters())
                if part.requires_grad
            ]
            return decoded_again(some, code, datum, learnt, self.max_rows)
        if self.max_rows is None or len(code) <= self.max_rows:
            return some(code, datum)
        starts = range(0, len(code), self.max_rows)
        pairs = [
            (code[start : start + self.max_rows], datum[start : start + self.max_rows]) for start in starts
        ]
        if not torch.is_grad_enabled():
            return torch.cat([some(*pair) for pair in pairs])
        return torch.cat([checkpoint(some, *pair, use_reentrant=False) for pair in pairs])

    def _draw_z(self, q: Mixture, K: int) -> Tensor:
        z = q.pick(q.choose(K)).rsample(None, "z", "KBD")
        if bool(q.observed.all()):
            return z
        fresh = self.prior.draw(K * z.shape[1]).view_as(z)
        return torch.where(q.observed[:, None], z, fresh)

    def _log_q_z(self, q: Mixture, z: Tensor) -> Tensor:
        return torch.where(q.observed, q.log_prob(z), self.prior.z().log_prob(z))

    def _defended(self, batch: Batch, K: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """Latents z [K, B, D], w [K, B, W] of which the last tenth is the prior's, their log-weights [G, K, B], and that tenth's size.

        G = 1, or M where there is no shared code: then the modalities are independent and so are their weights.
        """
        first = max(1, round(_DEFENCE * K))
        experts = self.experts(batch)
        q = self.posterior(batch, experts)
        z = torch.cat(
            [
                self._draw_z(q, K - first),
                self.prior.draw(first * batch.size).view(first, batch.size, self.shared),
            ]
        )
        q_w, p_w = self.private(batch, experts, z), self.prior.w(z)
        prior = torch.arange(K, device=z.device)[:, None, None] >= K - first
        w = p_w.where(prior, q_w).rsample(None, "w", "KBW")
        log_x = self.log_likelihood(batch, z, w)  # [M, K, B]
        log_p_w, log_q_w = self.by_owner(p_w.columns(w)), self.by_owner(q_w.columns(w))
        if self.shared:
            log_x, log_p_w, log_q_w = (x.sum(0, keepdim=True) for x in (log_x, log_p_w, log_q_w))
        log_p = log_p_w + self.prior.z().log_prob(z)
        log_q = log_q_w + self._log_q_z(q, z)
        share = first / K
        return (
            z,
            w,
            log_x + log_p - torch.logaddexp(math.log1p(-share) + log_q, math.log(share) + log_p),
            first,
        )

    def _log_marginal(self, batch: Batch, K: int) -> Estimate:
        _, _, log_weight, first = self._defended(batch, K)
        top = log_weight.amax(1, keepdim=True)
        weight = (log_weight - top).exp()  # [G, K, B]
        mean = weight.mean(1)
        value = (mean.log() + top[:, 0]).sum(0)
        variance = torch.zeros_like(mean)
        for part in (weight[:, : K - first], weight[:, K - first :]):
            if part.shape[1] > 1:
                variance += (part.shape[1] / K) ** 2 * part.var(1) / part.shape[1]
        effective = weight.sum(1).square() / weight.square().sum(1)
        observed = batch.mask.any(0)
        return Estimate(
            torch.where(observed, value, 0), (variance / mean.square()).sum(0).sqrt(), effective.amin(0)
        )

    def _resampled(self, batch: Batch, K: int) -> tuple[Tensor, Tensor]:
        z, w, log_weight, _ = self._defended(batch, max(256, 32 * K))
        if self.shared:
            choice = noise.choice(log_weight[0].softmax(0), K, "resample", "KB")[..., None]
            return z.gather(0, choice.expand(-1, -1, z.shape[2])), w.gather(
                0, choice.expand(-1, -1, w.shape[2])
            )
        parts = []
        for m, span in enumerate(self.columns):
            choice = noise.choice(log_weight[m].softmax(0), K, "resample", "KB")[..., None]
            part = w[..., span]
            parts.append(part.gather(0, choice.expand(-1, -1, part.shape[2])))
        return z[:K], torch.cat(parts, -1)


def own_or_prior(self: MultimodalVAE, batch: Batch, experts: Experts, z: Tensor) -> Diagonal:
    """q(w_m | x_m) where x_m was observed, p(w_m | z) elsewhere."""
    return own_or(self, batch, experts, self.prior.w(z))


def own_or(self: MultimodalVAE, batch: Batch, experts: Experts, p_w: Diagonal) -> Diagonal:
    """``own_or_prior`` for whoever has p(w | z) already: [..., B, W]."""
    if batch.complete and len(self.encoded) == len(self.modalities):
        return experts.w.map(lambda x: x.expand_as(p_w.loc))
    return experts.w.where(self.own(experts.mask[None])[0], p_w)


def placed(base: Tensor, index: Tensor, rows: Tensor, real: bool) -> Tensor:
    """``base`` with ``rows`` at ``index``; where they are not real, as it was, and a gradient of zero for whatever made the rows."""
    if not real:
        rows = torch.where(
            torch.zeros((), dtype=torch.bool, device=rows.device), rows, base.index_select(0, index)
        )
    return base.index_copy(0, index, rows)


def _scatter(base: Diagonal, index: Tensor, rows: Diagonal, real: bool) -> Diagonal:
    return type(base)(placed(base.loc, index, rows.loc, real), placed(base.scale, index, rows.scale, real))


def _private(model: str, spec: Modality, default: int | None) -> int:
    if default is None and spec.private:
        raise InputError(
            f"{model}: modality {spec.name!r} has private={spec.private}, but this model has no private codes; expected 0; "
            "leave it out or choose a model with private codes"
        )
    return (default or 0) if spec.private is None else spec.private


def _check(
    model: str,
    modalities: Sequence[Modality],
    *,
    latent: int,
    beta: float,
    family: str,
    scale_map: str,
    max_rows: int | None,
) -> None:
    names = [spec.name for spec in modalities]
    if not names:
        raise InputError(
            f"{model}: got no modalities; expected at least one Modality; data.modalities() makes them"
        )
    if len(set(names)) < len(names):
        raise InputError(f"{model}: got modality names {names}; expected each name once; rename one")
    check_count(model, "latent", latent)
    if not isinstance(beta, int | float) or not beta >= 0:
        raise InputError(f"{model}: got beta={beta!r}; expected a number, 0 or more")
    if family not in FAMILIES:
        raise InputError(f"{model}: unknown family {family!r} of posteriors; {nearest(family, FAMILIES)}")
    if scale_map not in SCALES:
        raise InputError(f"{model}: unknown scale_map {scale_map!r}; {nearest(scale_map, SCALES)}")
    if max_rows is not None:
        check_count(model, "max_rows", max_rows)
