"""DeepIMV: prediction of labels from incomplete modalities through an information bottleneck."""

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
from polyvae.utils.errors import LABELS, InputError, check_count, is_number


class DeepIMV(MultimodalVAE):
    """A predictor of labels from any subset of the inputs, with a product of experts as a bottleneck.

    The inputs x_m ("views" in the paper) are modalities of role "input", and the labels y are modalities
    of role "target". The bottleneck over the observed inputs O is q(z | x_O) ∝ p(z) Π_{m∈O}
    q_m(z | x_m). p(y | z) predicts from it, and p_m(y | z), the predictor of input m alone, predicts
    from the expert of m:

        L = E_{q(z|x_O)} Σ_t s_t log p(y_t | z) − β KL(q(z | x_O) || p(z))
            + α Σ_{m∈O} [E_{q_m(z|x_m)} Σ_t s_t log p_m(y_t | z) − β KL(q_m(z | x_m) || p(z))]

    With β = 1, each bracket is an ELBO of log p(y) whose posterior depends on x instead of y. There is
    no joint density of x and y.

    Lee & van der Schaar, A Variational Information Bottleneck Approach to Multi-Omics Data Integration,
    AISTATS 2021, section 3. The defaults are those of the authors' code.

    ``generate`` returns the distribution of the labels for each draw of z; the mean over K is the
    prediction. ``sample`` draws labels from p(z), without any input.

    Missing inputs are left out of all terms. A sample without any label contributes nothing, because the
    paper has none (its KL alone would pull q towards the prior).

    Differs from the authors' code (chl8856/DeepIMV): the term of input m is per sample (theirs is a mean
    over the samples of the batch in which m was observed, so rare inputs get a larger weight). Labels
    have likelihoods (theirs: squared error for numbers, cross-entropies otherwise). There can be several
    labels, and some can be missing. There is no dropout, there are no guards in products and logarithms,
    and there is no consistency term, which their code only reports.

    Args:
        modalities: The specifications of the modalities, each of role "input" or "target".
        latent: Columns of z.
        beta: The factor β.
        alpha: α, the weight of the predictors of single inputs.
        K: Draws of z per component.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: A modality of role "both", no input or no label, or a number out of range.
    """

    facts = Facts(bound=False, density=False, per_sample=True, nested=True, symmetric=True)
    requires = Requirements(text="modalities of role 'input' and labels of role 'target'", labels=True)
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
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=None)
        check_count(self.name, "K", K)
        if not is_number(alpha) or not alpha >= 0:
            raise InputError(
                f"deepimv: got alpha={alpha!r}; expected a number, 0 (no predictors of single inputs) or more; such as 1.0"
            )
        for spec in modalities:
            if spec.role == "both":
                raise InputError(
                    f"deepimv: modality {spec.name!r} has role='both'; expected 'input' for a modality that "
                    f"is never decoded, or 'target' for a label; set role in its [[modality]] table; {LABELS}"
                )
        self.labels = [m for m, spec in enumerate(modalities) if spec.role == "target"]
        if not self.labels:
            raise InputError(
                f"deepimv: got the inputs {[spec.name for spec in modalities]} and no label to predict; "
                f"expected at least one modality with role='target'; {LABELS}, but [[modality]] \"*\" "
                "also changes its role"
            )
        self.K, self.alpha = K, alpha
        inputs_first = [*self.encoded, *self.labels]
        self._order = [inputs_first.index(m) for m in range(len(modalities))]
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
        return mixture_of_products(experts, everything(experts.observed), self.p_z)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        labels = torch.stack([self.modalities.observed(batch)[m] for m in self.labels]).any(0)
        mask = experts.observed & labels
        membership = torch.cat([everything(mask), singles(mask)])  # [V, E, B], V = 1 + E
        components = type(experts.z).cat([self.posterior(batch, experts).components, experts.z], 0)
        q = joint(components, membership)  # [V, B, D]
        z = q.stratified(self.K)  # [K, V, B, D]
        together = self.decode_components(batch, q.weights[:1], z[:, :1])  # [M, K, 1, B]
        alone = self._alone(batch, z[:, 1:], membership[1:].any(1))  # [M, K, V − 1, B]
        kl = q.components.kl(self.p_z)  # [V, B]
        log_y = self.weighted(torch.cat([together, alone], 2)).mean(0)  # [V, B]
        elbo = torch.where(q.active, log_y - warm * self.beta * kl, 0)
        single = self.alpha * elbo[1:].sum(0)
        terms = self.terms(q.active[:1].to(kl.dtype), together, {"kl/z": kl[None, :1]})
        return Bound(elbo[0] + single, terms | {"subsets": single.detach()})

    def _alone(self, batch: Batch, z: Tensor, active: Tensor) -> Tensor:
        """log p_m(y | z) by the predictor of every input m: z [K, E, B, D], active [E, B] -> [M, K, E, B]."""
        each = []
        for e, m in enumerate(self.encoded):
            predictors, z_m = self.modalities.at(m).parts["labels"], z[:, e]  # [K, B, D]
            assert isinstance(predictors, Modalities)
            predictors.max_rows = self.max_rows
            decoded = None if batch.complete else active[e]
            log_y = predictors.log_likelihood(batch, z_m, z_m[..., :0], decoded)
            inputs = z_m.new_zeros((len(self.encoded), *log_y.shape[1:]))
            rows = [*inputs, *log_y]
            each.append(torch.stack([rows[m] for m in self._order]))
        return torch.stack(each, 2)
