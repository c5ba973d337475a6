"""JNF: a joint encoder, and a normalising flow per modality that is fitted to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyvae.core import noise
from polyvae.core.aggregate import Experts, everything, joint
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import Diagonal, Mixture, Normal
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modality import Modality
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.models.parts.flows import ConditionalFlow, spread
from polyvae.models.parts.hmc import hmc
from polyvae.models.parts.joint import JointNetwork
from polyvae.models.parts.levels import sizes
from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError, check_count

_PAIRS = 16  # fixed points, and their negatives, from which the moments of a flow are computed
_FAR = 10.0  # standard deviations of the prior; a flow that leads further gives no useful moments
_LEAST = 1e-8  # the smallest variance, that of points which are all cut off


class JNF(MultimodalVAE):
    """A joint encoder q(z | X), and flows q_m(z | x_m) that are fitted to it; products of flows for subsets.

        L = E_{q(z|X)} Σ_m s_m log p(x_m | z) − β KL(q(z | X) || p(z)) − Σ_m KL(q̄(z | X) || q_m(z | x_m))

    The bar means that no gradient flows: the first two terms train the joint encoder and the decoders, and the last one,
    at the draws that are decoded, the experts and flows only. Each q_m is an expert N(μ_m, σ_m²) that a masked
    autoregressive flow transforms. A subset S of the modalities, of which not all were observed, has the posterior

        q(z | x_S) ∝ p(z)^{1−|S|} Π_{m∈S} q_m(z | x_m)

    which is exact if every q_m is p(z | x_m) and the modalities are independent given z.

    Senellart, Chadebec & Allassonnière, Improving Multimodal Joint Variational Autoencoders through Normalizing Flows
    and Correlation Analysis, Journal of Data Science, Statistics, and Visualisation 5(9), 2025 (arXiv 2305.11832).

    Draws of a single modality are exact draws of its flow, and draws of all modalities those of the joint encoder. For
    other subsets, z is the last state of a chain of Hamiltonian Monte Carlo, whose density is known up to a constant, so
    the ``log_q`` of ``draw`` is NaN there. ``posterior`` is a normal approximation to all of these: from the moments of
    the flows at fixed points, and for a subset the product of these normal distributions divided by the prior.
    ``embed`` returns its mean, and likelihoods are estimated with it as the proposal.

    L is a bound for β ≥ 1, because the last term is at most 0 in expectation.

    The paper trains with complete data. Here, the features of missing modalities are left out of the sum from which the
    joint network computes q(z | X). An incomplete sample thus has the bound of what was observed, and its flows are
    fitted to that posterior, which is right if modalities are missing at random.

    Differs from the paper and from the authors' code (AgatheSenellart/MultiVae): both stages are trained at once. The
    parameters of the stages are disjoint, so the first one is unchanged (unless gradients are clipped by their common
    norm), and the flows follow the joint posterior as it converges. The code divides by p(z) once for every subset, which
    is right for |S| = 2 only. Its chains start at draws of the experts and have a fixed step size; here, they start at draws of
    the normal approximation, and adapt it. Its flows depend on x_m by μ_m and σ_m only (``conditional=False``). DCCA
    features, an option of the paper, are left out.

    Exempt from the laws of ``polyvae.testing``:
    the bound is nested; inference is not, because what is all of the modalities depends on the model.

    Args:
        modalities: The specifications of the modalities.
        latent: Columns of z.
        beta: The factor β.
        K: Draws of z.
        joint_width: Number of features that the joint network takes from each encoder.
        transforms: Autoregressive transformations of each flow.
        hidden: Widths of the hidden layers of each transformation.
        conditional: Whether the transformations depend on μ_m and σ_m.
        steps: Proposals of a chain.
        leapfrog: Leapfrog steps of a proposal.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: An unknown option, a number out of range, or zuko is not installed (the extra ``flow``).
    """

    facts = Facts(bound=True, density=True, per_sample=True, nested=True, symmetric=True)
    requires = Requirements(text="the extra flow")
    name = "jnf"
    citation = "Senellart et al. 2025"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 32,
        beta: float = 1.0,
        K: int = 1,
        joint_width: int = 256,
        transforms: int = 3,
        hidden: Sequence[int] = (64, 64),
        conditional: bool = True,
        steps: int = 30,
        leapfrog: int = 5,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=None)
        for key, value in (("K", K), ("transforms", transforms), ("steps", steps), ("leapfrog", leapfrog)):
            check_count(self.name, key, value)
        if not isinstance(conditional, bool):
            raise InputError(f"jnf: got conditional={conditional!r}; expected True or False; choose one")
        self.K, self.joint_width, self.transforms = K, joint_width, transforms
        self.hidden, self.conditional = sizes(self.name, hidden), conditional
        self.steps, self.leapfrog = steps, leapfrog
        self.joint = JointNetwork(self, latent, joint_width)
        for net in self.modalities.values():
            if net.encoder is not None:
                net.parts["flow"] = ConditionalFlow(
                    self.name, latent, transforms, tuple(self.hidden), conditional
                )

    # ---- inference -----------------------------------------------------------------------------------------

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        complete = experts.observed.all(0)  # [B]
        rest = experts.observed & ~complete
        here = to_device(rest, experts.mask.device)
        q = self._product(experts._replace(mask=here, on_host=None if experts.on_host is None else rest))
        if bool(complete.any()):
            whole = self.joint.of_observed(self, batch, experts.observed)
            q = whole.where(to_device(complete, here.device)[:, None], q)
        return joint(q[None], everything(experts.observed))

    private = own_or_prior

    def draw_shared(self, batch: Batch, experts: Experts, K: int) -> tuple[Tensor, Tensor]:
        """Draws of the joint encoder, of a flow, or of a product of flows: z [K, B, D], and log q(z) [K, B].

        Args:
            batch: The data.
            experts: The experts of the encoded modalities.
            K: Draws per sample.

        Returns:
            z [K, B, D] and log q(z) [K, B], NaN for a product of flows.
        """
        mask, unit = experts.observed, self.p_z
        eps = noise.normal((K, batch.size, self.latent), experts.z.loc, "z", "KBD")
        z, log_q = eps, unit.log_prob(eps)
        complete, count = mask.all(0), mask.sum(0)
        if bool(complete.any()):
            whole = self.joint.of_observed(self, batch, mask)
            drawn = whole.loc + whole.scale * eps
            here = to_device(complete, z.device)
            z = torch.where(here[:, None], drawn, z)
            log_q = torch.where(here, whole.log_prob(drawn), log_q)
        for e, flow in enumerate(self._flows):
            index = to_device((mask[e] & (count == 1) & ~complete).nonzero()[:, 0], eps.device)
            if len(index):
                expert = experts.z[e, index]
                drawn = flow.push(eps[:, index], expert)
                z = z.index_copy(1, index, drawn)
                log_q = log_q.index_copy(1, index, flow.log_prob(drawn, expert))
        several = (count > 1) & ~complete
        index = to_device(several.nonzero()[:, 0], eps.device)
        if len(index):
            on_host = None if experts.on_host is None else experts.on_host[:, several]
            some = Experts(experts.z[:, index], experts.w[index], experts.mask[:, index], on_host)
            z = z.index_copy(1, index, self._chains(some, eps[:, index]))
            log_q = log_q.index_fill(1, index, torch.nan)
        return z, log_q

    @property
    def _flows(self) -> list[ConditionalFlow]:
        flows = [self.modalities.at(m).parts["flow"] for m in self.encoded]
        return [flow for flow in flows if isinstance(flow, ConditionalFlow)]

    def _chains(self, experts: Experts, eps: Tensor) -> Tensor:
        """Draws from products of flows by Hamiltonian Monte Carlo, which starts at the normal approximation: [K, B, D]."""
        # Chains need gradients, which tensors made in inference mode do not have, but copies of them do.
        with torch.inference_mode(False):
            given = Experts(
                experts.z.map(lambda x: x.detach().clone()), experts.w, experts.mask.clone(), experts.on_host
            )
            with torch.no_grad():
                q = self._product(given)
            # In coordinates in which the approximation is standard normal, one step size suits all columns.
            u = hmc(lambda u: self.log_product(q.loc + q.scale * u, given), eps, self.steps, self.leapfrog)
            return q.loc + q.scale * u

    def log_product(self, z: Tensor, experts: Experts) -> Tensor:
        """log [p(z)^{1−|S|} Π_{m∈S} q_m(z | x_m)], S what was observed: [K, B, D] -> [K, B].

        Args:
            z: [K, B, D].
            experts: The experts of the encoded modalities.
        """
        total = (1 - experts.mask.sum(0)) * self.p_z.log_prob(z)
        for e, flow in enumerate(self._flows):
            row = experts.observed[e]
            if bool(row.all()):
                total = total + flow.log_prob(z, experts.z[e])
            elif bool(row.any()):
                index = to_device(row.nonzero()[:, 0], z.device)
                each = flow.log_prob(z.index_select(1, index), experts.z[e, index])
                total = total.index_add(1, index, each)
        return total

    def _product(self, experts: Experts) -> Normal:
        """The normal approximation to the product of flows, from their moments: [B, D]; p(z) where nothing was observed.

        Moments are exact for flows that transform each column linearly. A flow that is wider than the prior in a column
        does not widen a product; alone, it keeps its moments.
        """
        unit, mask = self.p_z, experts.mask
        precision, pull = torch.zeros_like(experts.z.loc[0]), torch.zeros_like(experts.z.loc[0])
        points = spread(self.latent, _PAIRS, experts.z.loc)[:, None]  # [P, 1, D]
        alone = (mask.sum(0) == 1)[:, None]
        for e, flow in enumerate(self._flows):
            index = to_device(experts.observed[e].nonzero()[:, 0], mask.device)
            if len(index):
                z = flow.push(points.expand(-1, len(index), -1), experts.z[e, index])  # [P, rows, D]
                z = z.nan_to_num(_FAR, _FAR, -_FAR).clamp(-_FAR, _FAR)
                each = z.var(0, correction=0).clamp(min=_LEAST).reciprocal()
                gain = torch.where(alone[index], each - 1, (each - 1).clamp(min=0))
                precision = precision.index_add(0, index, gain)
                pull = pull.index_add(0, index, each * z.mean(0))
        total = 1 + precision
        q = Normal(pull / total, total.rsqrt())
        return q.where(mask.any(0)[:, None], Normal(unit.loc.expand_as(q.loc), unit.scale.expand_as(q.scale)))

    # ---- training ------------------------------------------------------------------------------------------

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        components: Diagonal = self.joint.of_observed(self, batch, experts.observed)[None]
        q = joint(components, everything(experts.observed))
        z = q.stratified(self.K)  # [K, 1, B, D]
        log_x = self.decode_components(batch, q.weights, z)  # [M, K, 1, B]
        kl = q.components.kl(self.p_z)[None]  # [1, 1, B]
        fixed, log_q = z.detach(), q.components.detach().log_prob(z.detach())  # [K, 1, B]
        each = torch.stack(
            [log_q - flow.log_prob(fixed, experts.z[e]) for e, flow in enumerate(self._flows)], 1
        )
        flows = torch.where(experts.mask[:, None], each, 0).sum(1)  # [K, 1, B]
        log_weight = self.weighted(log_x) - warm * self.beta * kl - flows
        value = over_components(q.weights, log_weight.mean(0))
        return Bound(value, self.terms(q.weights, log_x, {"kl/z": kl, "flows": flows}))
