"""DeepIMV: labels from incomplete views, through an information bottleneck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polyvae.core.aggregate import Experts, everything, joint, mixture_of_products, singles
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound
from polyvae.core.distributions import Mixture
from polyvae.core.modality import Modalities, Modality, ModalityNet
from polyvae.core.vae import Facts, MultimodalVAE, own_or_prior
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

    facts = Facts(
        bound=False,
        density=False,
        per_sample=True,
        nested=True,
        symmetric=True,
        labels=True,
        needs="views of role 'source' and labels of role 'target'",
    )
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
        max_rows: int | None = None,
    ) -> None:
        super().__init__(
            modalities,
            latent=latent,
            beta=beta,
            family="normal",
            scale_map=scale_map,
            seen=latent,
            private=None,
            max_rows=max_rows,
        )
        check_count(self.name, "K", K)
        if not isinstance(alpha, int | float) or not alpha >= 0:
            raise InputError(
                f"deepimv: got alpha={alpha!r}; expected a number, 0 (no predictors of single views) or more"
            )
        for spec in modalities:
            if spec.role == "both":
                raise InputError(
                    f"deepimv: modality {spec.name!r} has role='both'; expected 'source' for a view, which is never decoded, "
                    f"or 'target' for a label, which is never encoded; [[modality]] tables say role; {LABELS}"
                )
        self.labels = [m for m, spec in enumerate(modalities) if spec.role == "target"]
        if not self.labels:
            raise InputError(
                f"deepimv: got the views {[spec.name for spec in modalities]} and no label to predict; expected at least one "
                f"modality with role='target'; {LABELS}, but [[modality]] \"*\" changes its role, too"
            )
        self.K, self.alpha = K, alpha
        for m in self.encoded:
            self._net(m).parts["labels"] = Modalities(
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
        together = self.log_likelihood(
            batch, z[:, :1], z[:, :1, :, :0], wanted=None if batch.complete else q.active[:1]
        )  # [M, K, 1, B]
        alone = self._alone(batch, z[:, 1:], q.active[1:])  # [M, K, V − 1, B]
        kl = q.components.kl(self.p_z)  # [V, B]
        elbo = torch.where(
            q.active, self.weighted(torch.cat([together, alone], 2)).mean(0) - warm * self.beta * kl, 0
        )
        views = self.alpha * elbo[1:].sum(0)
        terms = self.terms(q.active[:1].to(kl.dtype), together, **{"kl/z": kl[None, :1]})
        return Bound(elbo[0] + views, terms | {"subsets": views.detach()})

    def _alone(self, batch: Batch, z: Tensor, active: Tensor) -> Tensor:
        """log p_m(y | z) by the predictors of every view m: z [K, M_sources, B, D], live [M_sources, B] -> [M, K, M_sources, B]."""
        names, views = list(self.modalities), []
        for v, m in enumerate(self.encoded):
            predictors: Mapping[str, ModalityNet] = self._net(m).parts["labels"]  # type: ignore[assignment]  # a ModuleDict's are Modules
            log_y = dict.fromkeys(self.encoded, z.new_zeros(z[:, v].shape[:-1]))
            for t in self.labels:
                exists = None if batch.complete else (batch.mask[t] & active[v]).expand(len(z), -1)
                log_y[t] = self.log_prob_where(predictors[names[t]], batch, names[t], z[:, v], exists)
            views.append(torch.stack([log_y[n] for n in range(len(names))]))
        return torch.stack(views, 2)

    def _net(self, m: int) -> ModalityNet:
        return list(self.modalities.values())[m]
