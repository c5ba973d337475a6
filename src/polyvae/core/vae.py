"""The base class of all models: experts → components → decoded draws → log-weights → a bound."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from polyvae.core.aggregate import Experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, estimate, over_components
from polyvae.core.distributions import FAMILIES, SCALES, Diagonal, Mixture, Normal
from polyvae.core.facts import Calls, Facts, Requirements
from polyvae.core.inference import Inference
from polyvae.core.modalities import Modalities
from polyvae.core.modality import Modality, ModalityNet
from polyvae.core.networks import auto
from polyvae.core.priors import ConditionalPrior, MixturePrior, PseudoPrior, StandardPrior, TopDownPrior
from polyvae.utils.errors import LABELS, SELECT, InputError, check_count, is_number, nearest
from polyvae.utils.text import counted, table

_Density = TypeVar("_Density", Diagonal, Mixture)


class MultimodalVAE(Inference, ABC):
    """The base class of all models. A model defines ``posterior``, ``private`` and ``bound``.

    Every keyword of a constructor is an attribute of the same name, so ``options`` can return them.

    Args:
        modalities: The specifications, in the order of every M axis.
        latent: Columns of z, or of each w_m in a model without a shared latent.
        beta: Multiplies the KL divergences.
        family: The family of experts and priors, "normal" or "laplace".
        scale_map: The map from network outputs to scales, a name in SCALES.
        seen: Columns of z that experts and decoders see; None: all.
        private: Columns of w_m for modalities that do not define them (one number, or one per modality);
            None: the model cannot have private latents.
        inferring: The modalities whose encoders have an expert of z; None: all that are encoded.
        learn_prior: Learn the scales of p(z).
        prior_components: Number of components of p(z), a learnt mixture; 0: a standard prior.

    Attributes:
        facts: Properties of the model with its options.
        requires: What the model requires of its modalities.
        calls: How often a training step calls each network.
        name: The name in MODELS.
        citation: The paper to cite.
        private_latents: "yes", "optional", "none" or "only private".
        K: Draws per component.
        objective: "elbo", "iwae" or "dreg".

    Raises:
        InputError: An option or a modality that the model cannot be built with.
    """

    facts: Facts
    requires: ClassVar[Requirements] = Requirements()
    calls: ClassVar[Calls] = Calls()
    name: ClassVar[str]
    citation: ClassVar[str]
    private_latents: ClassVar[str]
    K: int = 1
    objective: str = "elbo"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int,
        beta: float,
        scale_map: str,
        private: int | Sequence[int] | None,
        family: str = "normal",
        seen: int | None = None,
        inferring: Sequence[int] | None = None,
        learn_prior: bool = False,
        prior_components: int = 0,
    ) -> None:
        super().__init__()
        model = type(self).__name__
        _check(model, modalities, latent=latent, beta=beta, family=family, scale_map=scale_map)
        _check_number(self.name, modalities, self.requires)
        seen = latent if seen is None else seen
        self.latent, self.beta, self.family, self.scale_map, self.seen = latent, beta, family, scale_map, seen
        defaults = private if isinstance(private, Sequence) else [private] * len(modalities)
        sizes = [_private(model, *pair) for pair in zip(modalities, defaults, strict=True)]
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
        if not self.encoded:
            raise InputError(
                f"{self.name}: got only targets; expected at least one modality that is encoded; give it "
                "role='both'"
            )
        self.prior: StandardPrior | MixturePrior | ConditionalPrior | TopDownPrior | PseudoPrior = (
            MixturePrior(seen, sum(sizes), family, prior_components)
            if prior_components
            else StandardPrior(seen, sum(sizes), family, learn_prior)
        )

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _refusing_unknown(cls, cls.__init__)  # type: ignore[method-assign]

    # ---- what a model defines, beside posterior and private ------------------------------------------------

    @abstractmethod
    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        """The objective in nats per sample. ``warm`` in [0, 1] multiplies β."""

    # ---- what all models have ------------------------------------------------------------------------------

    def forward(self, batch: Batch, warm: float = 1.0) -> Bound:
        """The objective and its terms, in nats per sample.

        Args:
            batch: The data. Where nothing was observed, the objective is 0.
            warm: The annealing factor in [0, 1] that multiplies β.

        Returns:
            ``value`` [B] and ``terms``, name -> [B].

        Raises:
            InputError: The batch does not fit the model.
        """
        batch = self.admit(batch)
        return self.bound(batch, self.experts(batch), warm)

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of the constructor and their values.

        Raises:
            InputError: The constructor of the class has a keyword that it does not store, or ``**options``.
        """
        found = {}
        for key, parameter in inspect.signature(type(self)).parameters.items():
            if key == "modalities":
                continue
            # torch would answer an AttributeError inside a property with one that names the property.
            unstored = InputError(
                f"{type(self).__name__}: got a constructor with {str(parameter)!r}, which is no attribute; expected every "
                f"keyword as an attribute, from which the model can be built again; add self.{key} = {key} to __init__, "
                "and name the keywords in place of a **"
            )
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise unstored
            try:
                found[key] = getattr(self, key)
            except AttributeError:
                raise unstored from None
        return found

    @property
    def max_rows(self) -> int | None:
        """The number of rows to decode at a time; None: all at once.

        Chunks of this size are recomputed in the backward pass. This is a memory setting, not an option.
        Values and gradients do not depend on it, and it is not stored.
        """
        return self.modalities.max_rows

    @max_rows.setter
    def max_rows(self, rows: int | None) -> None:
        if rows is not None:
            check_count(self.name, "max_rows", rows)
        self.modalities.max_rows = rows

    @property
    def encoded(self) -> list[int]:
        """Indices of the modalities that are encoded."""
        return self.modalities.encoded

    @property
    def columns(self) -> list[slice]:
        """For each modality, its columns of w."""
        return self.modalities.columns

    @property
    def owner(self) -> Tensor:
        """[W], the modality that each column of w belongs to."""
        return self.modalities.owner

    @property
    def p_z(self) -> Normal:
        """p(z) of a model whose prior is a single normal distribution."""
        p = self.prior.z()
        assert isinstance(p, Normal)
        return p

    def __repr__(self) -> str:
        """Options, modalities and the number of parameters; ``print(model.modalities)`` lists the networks."""
        defaults = inspect.signature(type(self)).parameters
        shown = ", ".join(
            f"{key}={value!r}"
            for key, value in self.options.items()
            if key in ("latent", "beta", "K") or value != defaults[key].default
        )
        rows = [_row(net) for net in self.modalities.values()]
        parameters = counted(sum(p.numel() for p in self.parameters()), "parameter", "parameters")
        return "\n".join([f"{type(self).__name__}({shown})", *table(rows), f"  {parameters}"])

    def extra_repr(self) -> str:
        """The options, in one line, for the representation of torch: ``nn.Module.__repr__(model)``."""
        return ", ".join(f"{key}={value!r}" for key, value in self.options.items())

    # ---- building blocks of bounds -------------------------------------------------------------------------

    def own(self, of: Mixture | Experts) -> Tensor:
        """The private columns whose modality is a member of a component, or was observed.

        Args:
            of: A mixture (the result is [V, B, W] bool) or experts (the result is [B, W] bool).
        """
        if isinstance(of, Experts):
            return self.modalities.own(of.mask[None])[0]
        return self.modalities.own(of.membership)

    def draw_components(self, q: Mixture, stratified: bool) -> tuple[Tensor, Tensor]:
        """Draws z [K, V, B, D] from the components to decode, and their weights [V, B].

        Args:
            q: The joint posterior.
            stratified: Draw K times from every component. Otherwise draw K times from the mixture, with
                a component for each draw and sample (V = 1).
        """
        if stratified:
            return q.stratified(self.K), q.weights
        z = q.pick(q.choose(self.K)).rsample(None, "z", "KBD")[:, None]
        return z, q.observed[None].to(z.dtype)

    def decode_components(
        self,
        batch: Batch,
        weights: Tensor,
        z: Tensor,
        w: Tensor | None = None,
        decoded: Tensor | None = None,
        constant_z: Tensor | None = None,
    ) -> Tensor:
        """log p(x_m | z, w_m) for the draws of all components.

        Args:
            batch: The data.
            weights: [V, B], the weights of the components. A component of weight 0 is not decoded.
            z: [K, V, B, D].
            w: [K, V, B, W]; None: the model has no private latents.
            decoded: [M, V, B] bool, the terms to compute, of active components; None: all of these.
            constant_z: [M, V, B] bool, the terms without a gradient in z; None: none.

        Returns:
            [M, K, V, B].
        """
        w = z[..., :0] if w is None else w
        active = None if batch.complete else weights > 0
        return self.modalities.log_likelihood(
            batch,
            z,
            w,
            active if decoded is None else decoded[:, None],
            importance=self.objective != "elbo",
            constant_z=constant_z,
        )

    def decode_members(self, batch: Batch, q: Mixture, z: Tensor) -> Tensor:
        """log p(x_m | z), where each component decodes its members and every target.

        Args:
            batch: The data.
            q: The joint posterior.
            z: [K, V, B, D].

        Returns:
            [M, K, V, B].
        """
        return self.modalities.log_likelihood(batch, z, z[..., :0], self.modalities.members(q.table))

    def scored(self, q: _Density) -> _Density:
        """A posterior for evaluating densities in the objective: for "dreg", with constant parameters."""
        return q.detach() if self.objective == "dreg" else q

    def sampled_kl(self, q_w: Diagonal, p_w: Diagonal, w: Tensor, charged: Tensor) -> Tensor:
        """Σ log q(w) − log p(w) over the ``charged`` columns, at the draws: [K, V, B, W] -> [K, V, B]."""
        return torch.where(charged, self.scored(q_w).columns(w) - p_w.columns(w), 0).sum(-1)

    def weighted(self, log_x: Tensor) -> Tensor:
        """Σ_m s_m log p(x_m | ·): [M, ...] -> [...]."""
        return self.modalities.weigh(log_x).sum(0)

    def bound_of(
        self,
        weights: Tensor,
        log_x: Tensor,
        kl: Mapping[str, Tensor],
        beta: float,
        draws: Mapping[Tensor, Tensor | None] | None = None,
    ) -> Bound:
        """The bound given log-likelihoods and KL divergences.

            Σ_v weights_v estimator_k(Σ_m s_m log p(x_m | ·) − β KL)

        Args:
            weights: [V, B], the weights of the components.
            log_x: [M, K, V, B].
            kl: name -> [K, V, B].
            beta: Multiplies the KL divergences.
            draws: The decoded draws, each with its columns whose density is in ``kl`` (for "dreg").
        """
        first, *others = kl.values()
        log_weight = self.weighted(log_x) - beta * sum(others, start=first)
        value = over_components(weights, estimate(self.objective, log_weight, draws or {}, beta))
        return Bound(value, self.terms(weights, log_x, kl))

    def terms(self, weights: Tensor, log_x: Tensor, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts of a bound, for inspection, averaged over draws and components.

        Args:
            weights: [V, B], the weights of the components.
            log_x: Log-likelihoods, [M, K, V, B].
            others: name -> [K, V, B].

        Returns:
            name -> [B], detached.
        """
        names = [*(f"log_likelihood/{name}" for name in self.modalities), *others]
        with torch.no_grad():
            each = torch.stack([*log_x.mean(1), *(term.mean(0) for term in others.values())])  # [T, V, B]
            return dict(zip(names, over_components(weights, each), strict=True))


def _refusing_unknown(kind: type[MultimodalVAE], build: Callable[..., None]) -> Callable[..., None]:
    """The constructor with an error of one line for an unknown keyword."""
    known = inspect.signature(build).parameters

    @wraps(build)
    def checked(self: MultimodalVAE, *given: Any, **options: Any) -> None:
        if type(self) is kind and not any(each.kind is each.VAR_KEYWORD for each in known.values()):
            names = [key for key in known if key not in ("self", "modalities")]
            for key in options:
                if key not in known:
                    raise InputError(f"{kind.__name__}: unknown option {key!r}; {nearest(key, names)}")
        build(self, *given, **options)

    return checked


def own_or_prior(self: MultimodalVAE, batch: Batch, experts: Experts, z: Tensor, p_w: Diagonal) -> Diagonal:
    """q(w_m | x_m) where x_m was observed, p(w_m | z) elsewhere: [..., B, W]."""
    if batch.complete and len(self.encoded) == len(self.modalities):
        return experts.w.map(lambda x: x.expand_as(p_w.loc))
    return experts.w.where(self.own(experts), p_w)


def _row(net: ModalityNet) -> tuple[str, ...]:
    """The cells of a modality in ``repr``: name, shape, likelihood, network, role, private columns."""
    spec = net.spec
    network = auto(spec.shape) if spec.network == "auto" else spec.network
    own = {"encoder": spec.encoder, "decoder": spec.decoder}
    replaced = [
        f"{part} {factory if isinstance(factory, str) else 'user-defined'}"
        for part, factory in own.items()
        if factory is not None
    ]
    shown = ", ".join([network, *replaced] if len(replaced) < len(own) else replaced)
    return spec.name, str(spec.shape), spec.likelihood, shown, spec.role, f"private {net.private}"


def _private(model: str, spec: Modality, default: int | None) -> int:
    if default is None and spec.private:
        raise InputError(
            f"{model}: modality {spec.name!r} has private={spec.private}, but this model has no private "
            "latents; expected 0; leave it out or choose a model with private latents"
        )
    return (default or 0) if spec.private is None else spec.private


def _check(
    model: str, modalities: Sequence[Modality], *, latent: int, beta: float, family: str, scale_map: str
) -> None:
    names = [spec.name for spec in modalities]
    if not names:
        raise InputError(
            f"{model}: got no modalities; expected at least one Modality; data.modalities() makes them"
        )
    if len(set(names)) < len(names):
        raise InputError(f"{model}: got modality names {names}; expected each name once; rename one")
    check_count(model, "latent", latent)
    if not is_number(beta) or not beta >= 0:
        raise InputError(f"{model}: got beta={beta!r}; expected a finite number, 0 or more; 1 is a bound")
    if family not in FAMILIES:
        raise InputError(f"{model}: unknown family {family!r} of posteriors; {nearest(family, FAMILIES)}")
    if scale_map not in SCALES:
        raise InputError(f"{model}: unknown scale_map {scale_map!r}; {nearest(scale_map, SCALES)}")


def _check_number(model: str, modalities: Sequence[Modality], requires: Requirements) -> None:
    count, least, most = len(modalities), requires.least, requires.most or len(modalities)
    if not least <= count <= most:
        few = count < least
        expected = f"exactly {least}" if least == most else f"at least {least}" if few else f"at most {most}"
        raise InputError(
            f"{model}: got {count} modalities; expected {expected}; {LABELS if few else SELECT}; "
            "or choose a model for any number"
        )
