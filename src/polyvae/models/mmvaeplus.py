"""MMVAE+: shared and private latents, and auxiliary priors that prevent a shortcut."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polyvae.core import noise
from polyvae.core.aggregate import Experts, mixture_of_experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, check_objective
from polyvae.core.distributions import Diagonal, Mixture
from polyvae.core.facts import Facts
from polyvae.core.modality import Modality
from polyvae.core.networks.mlp import layers
from polyvae.core.priors import ConditionalPrior, MixturePrior, StandardPrior
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import InputError, is_number, nearest

CROSS = ("auxiliary", "prior", "posterior", "posterior-published")


class MMVAEPlus(MultimodalVAE):
    """Mixture of experts with private latents, which auxiliary priors replace in cross-reconstruction.

    The generative model is p(z) Π_m p(w_m) p(x_m | z, w_m): all modalities share z, and w_m is private
    to modality m. Every modality has two posteriors, the expert q_m(z | x_m) and q(w_m | x_m). The joint
    posterior is q(z | X) = (1/M) Σ_m q_m(z | x_m).

    For expert m: z^{mk} ~ q_m(z | x_m), w_m^{mk} ~ q(w_m | x_m), and for n ≠ m w̃_n^{mk} ~ r_n(w_n):

        l^{mk} = s_m log p(x_m | z^{mk}, w_m^{mk}) + Σ_{n≠m} s_n log p(x_n | z^{mk}, w̃_n^{mk})
                 + β [log p(z^{mk}) + log p(w_m^{mk}) − log q(z^{mk} | X) − log q(w_m^{mk} | x_m)]
        "elbo" (the default):  L = (1/M) Σ_m (1/K) Σ_k l^{mk}
        "iwae" and "dreg":     L = (1/M) Σ_m log (1/K) Σ_k exp l^{mk}

    s_m is the ``weight`` of modality m, 1 by default.

    Expert m thus reconstructs its own modality from z and w_m. It reconstructs every other modality n
    from z and a draw of the auxiliary prior r_n, whose scales are learnt. A draw from q(w_n | x_n) in
    its place would be a shortcut: it could describe x_n completely, and z would not have to.

    Palumbo, Daunhawer & Vogt, MMVAE+: Enhancing the Generative Quality of Multimodal VAEs without
    Compromises, ICLR 2023. The objective follows the public code (epalu/mmvaeplus, objectives.py).

    Four options change the objective, none of them part of the paper. Only one of the M reconstructions of a
    modality uses its own private latent, so w learns late, and generated backgrounds are all alike. And
    where w describes what z describes, a draw of p(w) contradicts z. With λ = ``own_weight`` and
    sg the stop-gradient:

        own_weight          λ s_m log p(x_m | z^{mk}, w_m^{mk}) for the own reconstruction
        detach_own          s_m log p(x_m | sg(z^{mk}), w_m^{mk}): the same value; q(z | x_m) learns from
                            cross-reconstruction and the divergences alone (MMVAE++)
        conditional_prior   p(w_n | z) = N(μ_n(z), σ_n(z)²) in place of p(w_n), in training and generation
        cross_experts       "one": (|A| − 1) s_n log p(x_n | z^{mk}, w̃_n^{mk}) for one m ≠ n per sample and n,
                            drawn uniformly, and 0 for the others: unbiased for the sum over all of them
                            (for a target, which has no expert, |A| in place of |A| − 1)

    With λ ≠ 1, L is a reweighted objective and no bound on log p(X), for any r; the term "own_weight" is what
    λ adds. With a conditional prior it
    is what it was, for another model: p(z) Π_m p(w_m | z) p(x_m | z, w_m). The larger z, the more of what is
    private p(w_m | z) then takes from it, and the less do the draws for one z differ.

    ``detach_own`` is from Märtens & Yau, Disentangling shared and private latent factors in multimodal
    Variational Autoencoders, PMLR 240, 2024 (kasparmartens/shared-private-multimodalVAE). Their code has 0 in
    place of the w̃_n, a KL divergence of every expert to p(z) in place of log q(z | X), and always a gradient
    for a third modality.

    Missing modalities are left out of the mixture and of the sums, and |A|, the number of observed
    modalities, replaces M. With learnt r and without ``corrected``, L is not a bound on log p(X), hence
    ``facts.bound`` is False.

    Differs from the authors' code: values are in nats per sample, not summed over the batch. The
    gradient of "dreg" is the doubly reparametrised one. With several experts and K > 1 it is biased, by
    10 % of its norm for K = 10 in a linear world, and more for larger K; "iwae" is not. Theirs is the
    gradient of "iwae", because the tensor of their hook is not part of the loss. p, q and r have scale
    exactly 1 at raw 0 (theirs .693 for normals). The defaults are normal posteriors with softplus
    scales, the paper's choice for CUB. Its choice for PolyMNIST is ``family="laplace"``,
    ``scale_map="softmax"`` and β = 2.5. At generation, the expert is drawn per sample and draw.

    Exempt from the laws of ``polyvae.testing``:
    the scales of r get no gradient with one modality, or with one column under the softmax map.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z, and of each w_m unless its modality sets ``private``.
        K: Draws per expert.
        beta: The factor β.
        objective: "elbo", "iwae" or "dreg".
        cross: The distribution of w̃_n. "auxiliary": r_n with learnt scales (the paper). "prior": r = p.
            "posterior": q(w_n | x_n), and l^{mk} contains the log-ratio of every w_n (MMVAE_f, by its
            formula). "posterior-published": q(w_n | x_n), and l^{mk} contains that of w_m alone
            (MMVAE_f, the authors' code).
        corrected: Add β [log p(w̃_n) − log r_n(w̃_n)] to l^{mk} for n ≠ m. L is then a bound for any r.
        source_experts: "all", or "random": one expert per sample, shared by its K draws. That is
            unbiased for L and decodes 1/|A| as many draws.
        private_prior: The distribution of w_n where modality n is generated from others: "prior" p, or
            "auxiliary" r_n. ``sample`` draws from p(w) in either case.
        prior_components: Components of a learnt mixture p(z); 0: the standard prior.
        detach_own: Reconstruct x_m from its own expert with z as a constant (MMVAE++).
        own_weight: λ, the factor of the own reconstruction.
        cross_experts: Cross-reconstruct each modality from "all" other experts, or from "one" per sample
            (with "elbo"). Of M modalities, 2 M terms are decoded instead of M².
        conditional_prior: p(w_m | z) with location and scale from a network of one hidden layer of 128, for
            modalities that are encoded.
        family: The family of experts and priors, "normal" or "laplace".
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option, a number out of range, or ``corrected`` or
            ``private_prior="auxiliary"`` without the auxiliary priors.

    Example:
        >>> import polyvae as pv
        >>> modalities = [pv.Modality("image", (3, 28, 28)), pv.Modality("label", 10, "categorical")]
        >>> model = pv.MMVAEPlus(modalities, latent=8, K=10, objective="dreg")
        >>> model.facts.bound, pv.MMVAEPlus(modalities, corrected=True).facts.bound
        (False, True)
    """

    facts = Facts(bound=False, density=True, per_sample=True, nested=True, symmetric=True)
    name = "mmvae+"
    citation = "Palumbo et al. 2023"
    private_latents = "yes"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        K: int = 1,
        beta: float = 1.0,
        objective: str = "elbo",
        cross: str = "auxiliary",
        corrected: bool = False,
        source_experts: str = "all",
        private_prior: str = "prior",
        prior_components: int = 0,
        detach_own: bool = False,
        own_weight: float = 1.0,
        cross_experts: str = "all",
        conditional_prior: bool = False,
        family: str = "normal",
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family=family,
            scale_map=scale_map,
            private=latent,
            prior_components=prior_components,
        )
        check_objective(self.name, objective, K)
        for key, value, known in (
            ("cross", cross, CROSS),
            ("source_experts", source_experts, ("all", "random")),
            ("private_prior", private_prior, ("prior", "auxiliary")),
            ("cross_experts", cross_experts, ("all", "one")),
        ):
            if value not in known:
                raise InputError(f"mmvae+: unknown {key} {value!r}; {nearest(value, known)}")
        if cross != "auxiliary" and (corrected or private_prior == "auxiliary"):
            raise InputError(
                f"mmvae+: got cross={cross!r} with corrected=True or private_prior='auxiliary', which "
                "require the auxiliary priors; expected cross='auxiliary'; set it, or leave out the others"
            )
        if not is_number(own_weight) or own_weight <= 0:
            raise InputError(
                f"mmvae+: got own_weight={own_weight!r}; expected a positive number; 1 is the paper's objective"
            )
        if cross_experts == "one" and (source_experts == "random" or objective != "elbo"):
            raise InputError(
                f"mmvae+: got cross_experts='one' with source_experts={source_experts!r} and objective={objective!r}; expected "
                "source_experts='all' and objective='elbo', of which it is an unbiased estimate; choose cross_experts='all'"
            )
        self.K, self.objective, self.cross, self.corrected = K, objective, cross, corrected
        self.source_experts, self.private_prior = source_experts, private_prior
        self.prior_components, self.conditional_prior = prior_components, conditional_prior
        if conditional_prior:
            self.prior = given_z(self, latent)
        self.detach_own, self.own_weight = detach_own, own_weight
        self.cross_experts = cross_experts
        bound = (corrected or cross in ("prior", "posterior")) and own_weight == 1
        self.facts = self.facts._replace(bound=bound)
        self.raw_r = nn.Parameter(torch.zeros(len(self.owner))) if cross == "auxiliary" else None

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_experts(experts)

    def private(self, batch: Batch, experts: Experts, z: Tensor, p_w: Diagonal) -> Diagonal:
        q_w = own_or_prior(self, batch, experts, z, p_w)
        return q_w if self.private_prior == "prior" else q_w.where(self.own(experts), self.r(p_w))

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        q = self.posterior(batch, experts)  # q(z | X); component m is expert m
        source = self._one_expert(q) if self.source_experts == "random" else q
        z = source.stratified(self.K)  # z^{mk} ~ q_m(z | x_m): [K, V, B, D]
        p_w, own = self.prior.w(z), self.own(source)  # [K, V, B, W]; [V, B, W], w_m in component m
        q_w = self.private(batch, experts, z, p_w)
        qr_w = q_w.where(own, self._cross_w(q_w, p_w))  # q(w_m | x_m), and r_n(w_n) for n ≠ m
        w = qr_w.rsample(name="w")  # w_m^{mk}, w̃_n^{mk}
        own_x = self._own_terms(source)  # [M, V, B]
        shares = self._shares(source, own_x) if self.cross_experts == "one" else None
        log_x = self.decode_components(  # log p(x_n | z, w_n): [M, K, V, B]
            batch,
            source.weights,
            z,
            w,
            decoded=None if shares is None else shares > 0,
            constant_z=own_x if self.detach_own else None,
        )
        log_x = log_x if shares is None else shares[:, None] * log_x
        counted = self._counted(batch, own)  # the w whose densities are in l^{mk}
        # −[log p(z) − log q(z | X)] and −[log p(w_m) − log q(w_m | x_m)], [K, V, B]
        kl_z = self.scored(q).log_prob(z) - self.prior.z().log_prob(z)
        kl_w = self.sampled_kl(qr_w, p_w, w, counted)
        kl = {"kl/z": kl_z, "kl/w": kl_w}
        # Σ_m weights_m estimator_k(Σ_n λ s_n log p(x_n | ·) − β [kl_z + kl_w]), weights 1/|A|, λ = 1 for n ≠ m
        own_weighted = log_x * log_x.new_full((), self.own_weight).where(own_x[:, None], 1)
        value = self.bound_of(source.weights, own_weighted, kl, warm * self.beta, {z: None, w: counted}).value
        more = {} if self.own_weight == 1 else {"own_weight": self.weighted(own_weighted - log_x)}
        return Bound(value, self.terms(source.weights, log_x, {**kl, **more}))

    def r(self, p_w: Diagonal) -> Diagonal:
        """The auxiliary priors r_n(w_n), in the order of the columns of w, else p(w): [..., B, W]."""
        return auxiliary_priors(self, self.raw_r, p_w)

    def _cross_w(self, q_w: Diagonal, p_w: Diagonal) -> Diagonal:
        """The distribution of w̃_n, which replaces q(w_n | x_n) in cross-reconstruction: [K, V, B, W]."""
        if self.cross == "auxiliary":
            return self.r(p_w)
        return p_w if self.cross == "prior" else q_w

    def _counted(self, batch: Batch, own: Tensor) -> Tensor:
        """The private columns whose log-ratio is part of the log-weight of a component: [V, B, W]."""
        if self.cross == "posterior":
            return torch.ones_like(own)
        return own | batch.mask[self.owner].T if self.corrected else own

    def _own_terms(self, source: Mixture) -> Tensor:
        """Whether a component contains the expert of the modality that is reconstructed: [M, V, B] bool."""
        return self.modalities.by_modality(source.membership, torch.zeros_like(source.membership[:, 0]))

    def _shares(self, source: Mixture, own_x: Tensor) -> Tensor:
        """The number of components that each term represents, if one expert per sample cross-reconstructs: [M, V, B].

        It is 1 for the own reconstruction, the number of experts n ≠ m for the one that was drawn, and 0 for
        the others.
        """
        cross = source.active & ~own_x  # [M, V, B]
        score = noise.uniform((*own_x.shape[:1], *source.weights.shape), source.weights, "cross", "MVB")
        # The largest of independent uniform numbers is a uniform choice.
        chosen = torch.where(cross, score, -1).argmax(1, keepdim=True)  # [M, 1, B]
        drawn = torch.zeros_like(cross).scatter(1, chosen, True) & cross
        return torch.where(drawn, cross.sum(1, keepdim=True), own_x & source.active).to(source.weights.dtype)

    def _one_expert(self, q: Mixture) -> Mixture:
        """One component of q per sample, drawn by its weights: a mixture with V = 1."""
        choice = q.choose(1)  # [1, B]
        return Mixture(q.pick(choice), q.observed[None].to(q.weights.dtype), q.memberships(choice))


def given_z(model: MultimodalVAE, latent: int, hidden: int = 128) -> ConditionalPrior:
    """p(w_m | z) with location and scale from a network of one hidden layer: the part "prior" of each encoded modality.

    The private latent of a modality that is never encoded has no posterior to learn p(w_m | z) from, and remains independent of z.

    Args:
        model: The model, with the prior whose p(z) remains.
        latent: Columns of z.
        hidden: Size of the hidden layer.
    """
    assert isinstance(model.prior, StandardPrior | MixturePrior)
    maps = []
    for m in model.encoded:
        net = model.modalities.at(m)
        if net.private:
            net.parts["prior"] = nn.Sequential(*layers([latent, hidden, 2 * net.private]))
            maps.append((net.parts["prior"], model.columns[m]))
    return ConditionalPrior(model.prior, maps)


def auxiliary_priors(model: MultimodalVAE, raw_r: Tensor | None, p_w: Diagonal) -> Diagonal:
    """The auxiliary priors r_n(w_n), in the order of the columns of w, with location 0 and learnt scales.

    Args:
        model: The model with the private latents.
        raw_r: [W], mapped to scales by each modality's scale map; None: p(w | z) replaces r.
        p_w: p(w | z), [..., B, W].

    Returns:
        [..., B, W], of the family of p(w | z).
    """
    if raw_r is None:
        return p_w
    nets = zip(model.modalities.values(), model.columns, strict=True)
    scale = torch.cat([net.scale(raw_r[span]) for net, span in nets])
    return type(p_w)(torch.zeros_like(p_w.loc), scale.expand_as(p_w.loc))
