"""MEME: mutual supervision, where each of two modalities is the label of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polyvae.core.aggregate import Experts, mixture_of_experts
from polyvae.core.batch import Batch
from polyvae.core.bounds import Bound, over_components
from polyvae.core.distributions import Diagonal, Mixture, sum_log_prob
from polyvae.core.facts import Calls, Facts, Requirements
from polyvae.core.modalities import placed
from polyvae.core.modality import Modality
from polyvae.core.priors import PseudoPrior, pseudo_inputs
from polyvae.core.vae import MultimodalVAE, own_or_prior
from polyvae.utils.errors import SELECT, InputError, check_count, is_number, nearest

_FRESH = 10  # draws that enter q(t | s) only, beside the one that is weighted (as in the authors' code)


class MEME(MultimodalVAE):
    """Mutual supervision: the expert of one modality is the prior of the other, p(z | t) = q(z | t).

    The experts are never combined. For s → t, z_k ~ q(z | s), and both decoders p(s | z), q(t | z) with
    their likelihood weights:

        L(s, t) = (1/K) Σ_k w_k [log p(s | z_k) − log q(t | z_k) − β (log q(z_k | s) − log p(z_k | t))] + α log q(t | s)
        q(t | s) = (1/K) Σ_k q(t | z_k),   w_k = q(t | z_k) / q(t | s), no gradient;   L = ½ [L(s, t) + L(t, s)]

    Where t is missing, the prior is p_u(z) = (1/N) Σ_i q(z | u_i), over N = ``pseudo`` learnt
    pseudo-inputs u of t, and L = (1/K) Σ_k log p(s | z_k) − β (log q(z_k | s) − log p_u(z_k)).

    Joy, Shi, Torr, Rainforth, Schmon & Siddharth, Learning Multimodal VAEs through Mutual Supervision,
    ICLR 2022, section 3.

    With α = β = 1 the value of L(s, t) is a bound on log p(s | t) = log ∫ p(s | z) p(z | t) dz (add
    log p(t), a constant). But no gradient flows through w, so with α = 1 the gradients of the two terms
    with q(t | z) cancel, and q(t | z) learns nothing from s. The authors chose α = 10.

    ``start(batch)`` initialises the pseudo-inputs with data, as in the authors' code. Without it they
    start as draws from N(0, 1), in the space of the encoder's inputs. ``sample`` draws z from the p_u of
    both modalities, which complete data alone do not train.

    Differs from the authors' code (thwjoy/meme, which calls an absent method for unpaired data): w
    multiplies the log-ratio of z, as in the formula, not the exact KL. q(t | s) is the mean over the K
    draws. The objective is the mean of both directions, not their sum. With ``variant="published"``,
    q(t | s) is the mean over z_k and 10 fresh draws, and w multiplies the exact KL. log p(t) is in
    neither variant. p_u is evaluated for a few pseudo-inputs at a time, so that its memory does not grow
    with their number.

    Exempt from the laws of ``polyvae.testing``:
    not nested, because the model takes exactly two modalities. Samples that lack t contribute to
    the gradient of t's encoder, through its pseudo-inputs.

    Args:
        modalities: The specifications of exactly two modalities, each with ``role="both"``.
        latent: Columns of z.
        beta: The factor β.
        K: Draws per direction.
        alpha: The weight α of log q(t | s).
        pseudo: Pseudo-inputs of each modality.
        variant: "sound": the formula above; "published": the authors' code.
        scale_map: The map from network outputs to scales, "softplus", "exp" or "softmax".

    Raises:
        InputError: Other modalities, sentences, an unknown option or a number out of range.
    """

    facts = Facts(bound=False, density=False, per_sample=True, nested=False, symmetric=True)
    requires = Requirements(text="exactly two modalities, both encoded and decoded", least=2, most=2)
    calls = Calls(pseudo_inputs=True)
    name = "meme"
    citation = "Joy et al. 2022"
    private_latents = "none"

    def __init__(
        self,
        modalities: Sequence[Modality],
        *,
        latent: int = 64,
        beta: float = 1.0,
        K: int = 10,
        alpha: float = 10.0,
        pseudo: int = 128,
        variant: str = "sound",
        scale_map: str = "softplus",
    ) -> None:
        roles = [spec.role for spec in modalities]
        if roles != ["both", "both"]:
            raise InputError(
                f"meme: got modalities with roles {roles}; expected exactly two, each with role='both', "
                f"because each is the label of the other; {SELECT}; or choose another model"
            )
        super().__init__(modalities, latent=latent, beta=beta, scale_map=scale_map, private=None)
        check_count(self.name, "K", K)
        check_count(self.name, "pseudo", pseudo)
        if not is_number(alpha) or not alpha >= 0:
            raise InputError(f"meme: got alpha={alpha!r}; expected a number, 0 or more; such as 10.0")
        if variant not in ("sound", "published"):
            raise InputError(f"meme: unknown variant {variant!r}; {nearest(variant, ('sound', 'published'))}")
        for spec, net in zip(modalities, self.modalities.values(), strict=True):
            if net.likelihood.ids:
                raise InputError(
                    f"meme: got modality {spec.name!r} with likelihood {spec.likelihood!r}; expected numbers, because the learnt "
                    f"pseudo-inputs of an encoder cannot be ids; {SELECT}; or choose another model"
                )
        self.K, self.alpha, self.pseudo, self.variant = K, alpha, pseudo, variant
        for spec, net in zip(modalities, self.modalities.values(), strict=True):
            net.parts["pseudo"] = pseudo_inputs(pseudo, spec.shape)
        self.prior = PseudoPrior(0, self._all_pseudo_experts)

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_experts(experts)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        K, published = self.K, self.variant == "published"
        q = self.posterior(batch, experts)  # in component v, s is modality v
        z = q.stratified(K + _FRESH if published else K)  # [K', V, B, D]
        log_x = self._decode(batch, q, z)
        weighted = self.modalities.weigh(log_x)  # [M, K', V, B]
        log_s = torch.stack([weighted[0, :K, 0], weighted[1, :K, 1]], 1)  # [K, V, B]
        log_t, fresh = torch.stack([weighted[1, :, 0], weighted[0, :, 1]], 1).tensor_split([K])
        log_q = q.components.log_prob(z[:K])
        p = experts.z.map(lambda x: x.flip(0))  # p(z | t), [V, B, D]
        if published:
            log_q_t = torch.logaddexp(log_t, fresh.logsumexp(0)) - math.log(_FRESH + 1)  # [K, V, B]
            kl_t = q.components.kl(p).expand_as(log_q)
        else:
            log_q_t = (log_t.logsumexp(0) - math.log(K)).expand_as(log_t)
            kl_t = log_q - p.log_prob(z[:K])
        kl = torch.where(batch.mask.all(0), kl_t, log_q - self._pseudo_log_prob(batch, z[:K]))
        w = (log_t - log_q_t).exp().detach()  # 1 where t is missing
        each = w * (log_s - log_t - warm * self.beta * kl) + self.alpha * log_q_t
        terms = self.terms(q.weights, log_x[:, :K], {"kl/z": kl, "classifier": log_q_t})
        return Bound(over_components(q.weights, each.mean(0)), terms)

    @torch.no_grad()
    def start(self, batch: Batch) -> None:
        """Make the first ``pseudo`` observed samples of each modality its pseudo-inputs.

        Args:
            batch: The data.

        Raises:
            InputError: A modality has fewer observed samples.
        """
        batch = self.admit(batch, values=True)
        for row, (name, net) in zip(batch.mask, self.modalities.items(), strict=True):
            index = row.nonzero()[: self.pseudo, 0]
            if len(index) < self.pseudo:
                raise InputError(
                    f"meme: got {len(index)} observed samples of modality {name!r} for {self.pseudo} "
                    "pseudo-inputs; expected at least as many; pass a larger batch, or build the model with "
                    "a smaller pseudo"
                )
            entries = batch.entries.get(name)
            self._pseudo(net).copy_(
                net.features(batch.data[name][index], None if entries is None else entries[index])
            )

    def _decode(self, batch: Batch, q: Mixture, z: Tensor) -> Tensor:
        """log p(x | z), [M, K', V, B]. Fresh draws of a component decode the other modality only."""
        if self.variant == "sound":
            return self.decode_components(batch, q.weights, z)
        active = q.table.any(1)  # [V, B]
        weighted = torch.arange(self.K + _FRESH, device=active.device) < self.K  # [K']
        other = ~torch.eye(2, dtype=torch.bool, device=active.device)
        decoded = (other[:, None, :, None] | weighted[:, None, None]) & active
        return self.modalities.log_likelihood(batch, z, z[..., :0], decoded)

    def _pseudo_log_prob(self, batch: Batch, z: Tensor) -> Tensor:
        """log p_u(z) where the other modality is missing, 0 elsewhere: z [K, V, B, D] -> [K, V, B]."""
        components, mask = [], self.modalities.observed(batch)
        for v, other in enumerate(list(self.modalities)[::-1]):
            index, counted = self.modalities.observed_rows(mask[v] & ~mask[1 - v], z.device)
            log_p_u = z.new_zeros(z.shape[2], len(z))  # [B, K]
            if len(index):
                # In complete data no row counts, so one pseudo-input is enough.
                experts = self._pseudo_experts(other, 1 if batch.complete else self.pseudo)
                each = sum_log_prob(experts, z[:, v, index]) - math.log(self.pseudo)  # [K, rows]
                log_p_u = placed(log_p_u, index, each.T, counted)
            components.append(log_p_u.T)
        return torch.stack(components, 1)

    def _pseudo_experts(self, name: str, count: int) -> Diagonal:
        """q(z | u) of the first ``count`` pseudo-inputs of a modality: [count, D]."""
        return self.modalities.encode_features(name, self._pseudo(self.modalities[name])[:count]).z

    def _all_pseudo_experts(self) -> Diagonal:
        """q(z | u) of all pseudo-inputs of both modalities: [2N, D]."""
        first, second = (self._pseudo_experts(name, self.pseudo) for name in self.modalities)
        return type(first).cat([first, second], 0)

    def _pseudo(self, net: nn.Module) -> nn.Parameter:
        return net.get_parameter("parts.pseudo.0")
