"""DeepIMV: labels from incomplete views, through an information bottleneck."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyvae.core.aggregate import Experts, everything, joint, mixture_of_products, singles
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Mixture
from polyvae.core.facts import Facts, Requirements
from polyvae.core.modalities import Modalities
from polyvae.core.modality import Modality, ModalityNet
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import LABELS, InputError, check_count


class DeepIMV(MultimodalVAE):
    """Predicts labels y from whatever views x_m there are: a product of experts as bottleneck, and each view's own beside it.

    Views are ``source`` modalities, labels ``target`` ones. q(z | x_O) ∝ p(z) Π_{m∈O} q_m(z | x_m) over the observed views O; p(y | z)
    predicts from it, and p_m(y | z), of view m alone, from its expert:

        L = E_{q(z|x_O)} Σ_t s_t log p(y_t | z) − β KL(q(z | x_O) || p(z))
            + α Σ_{m∈O} [E_{q_m(z|x_m)} Σ_t s_t log p_m(y_t | z) − β KL(q_m(z | x_m) || p(z))]

    Lee & van der Schaar, A Variational Information Bottleneck Approach to Multi-Omics Data Integration, AISTATS 2021, section 3. With
    β = 1 each bracket is an ELBO of log p(y), by a posterior that sees x in place of y; a joint density of x and y there is not.

    ``generate`` gives the labels' distribution, one draw of z after the other: their mean over K is the prediction. ``sample`` draws them
    from p(z) and knows nothing. The defaults are the authors' code's.

    Missing views count nowhere; a datum without any label teaches nothing, for the paper has none (its KL alone would draw q to the
    prior). Differs from the authors' code (chl8856/DeepIMV): a term of view m is per datum (theirs is a mean over the batch's observed
    ones, which weighs rare views more); labels have likelihoods (theirs: squared error for numbers, cross-entropies else) and can be
    several, some of them missing; no dropout, no guards in products and logarithms, and not the consistency term that it only reports.
    """

    facts = Facts(bound=False, density=False, per_sample=True, nested=True, symmetric=True)
    requires = Requirements(text="views of role 'input' and labels of role 'target'", labels=True)
    name = "deepimv"
    citation = "Lee & van der Schaar 2021"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 50,
        beta: float = 0.01,
        alpha: float = 1.0,
        K: int = 1,
        scale_map: str = "softplus",
    ) -> None:
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family="normal",
            scale_map=scale_map,
            seen=latent,
            private=None,
        )
        check_count(self.name, "K", K)
        if not isinstance(alpha, int | float) or not alpha >= 0:
            raise InputError(
                f"deepimv: got alpha={alpha!r}; expected a number, 0 (no predictors of single views) or more"
            )
        for spec in modalities:
            if spec.role == "both":
                raise InputError(
                    f"deepimv: modality {spec.name!r} has role='both'; expected 'input' for a view, which is "
                    "never decoded, or 'target' for a label, which is never encoded; [[modality]] tables "
                    f"say role; {LABELS}"
                )
        self.labels = [m for m, spec in enumerate(modalities) if spec.role == "target"]
        if not self.labels:
            raise InputError(
                f"deepimv: got the views {[spec.name for spec in modalities]} and no label to predict; "
                f"expected at least one modality with role='target'; {LABELS}, but [[modality]] \"*\" "
                "changes its role, too"
            )
        self.K, self.alpha = K, alpha
        place = [*self.encoded, *self.labels]
        self._order = [place.index(m) for m in range(len(modalities))]
        for m in self.encoded:
            self.modalities.at(m).parts["labels"] = Modalities(
                {
                    modalities[t].name: ModalityNet(
                        modalities[t], seen=latent, private=0, posterior="normal", scale=scale_map
                    )
                    for t in self.labels
                }
            )

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_products(experts, everything(experts.mask), self.p_z)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        mask = experts.mask & batch.mask[self.labels].any(0)
        membership = torch.cat([everything(mask), singles(mask)])  # [V, M, B], V = 1 + M_sources
        q = joint(
            type(experts.z).cat([self.posterior(batch, experts).components, experts.z], 0), membership
        )  # [V, B, D]
        z = q.stratified(self.K)  # [K, V, B, D]
        together = self.decode_components(batch, q.weights[:1], z[:, :1])  # [M, K, 1, B]
        alone = self._alone(batch, z[:, 1:], q.active[1:])  # [M, K, V − 1, B]
        kl = q.components.kl(self.p_z)  # [V, B]
        elbo = torch.where(
            q.active, self.weighted(torch.cat([together, alone], 2)).mean(0) - warm * self.beta * kl, 0
        )
        views = self.alpha * elbo[1:].sum(0)
        terms = self.terms(q.active[:1].to(kl.dtype), together, {"kl/z": kl[None, :1]})
        return Bound(elbo[0] + views, terms | {"subsets": views.detach()})

    def _alone(self, batch: Batch, z: Tensor, active: Tensor) -> Tensor:
        """log p_m(y | z) by the predictors of every input m: z [K, E, B, D], active [E, B] -> [M, K, E, B]."""
        each = []
        for e, m in enumerate(self.encoded):
            predictors, here = self.modalities.at(m).parts["labels"], z[:, e]  # [K, B, D]
            assert isinstance(predictors, Modalities)
            predictors.max_rows = self.max_rows
            log_y = predictors.log_likelihood(
                batch, here, here[..., :0], None if batch.complete else active[e]
            )
            inputs = here.new_zeros((len(self.encoded), *log_y.shape[1:]))
            each.append(torch.cat([inputs, log_y])[self._order])
        return torch.stack(each, 2)
