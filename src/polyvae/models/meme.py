"""MEME: two modalities, each the label of the other in a semi-supervised VAE."""

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
from polyvae.utils.errors import SELECT, InputError, check_count, nearest

_FRESH = 10  # samples for q(t | s) alone, beside the one that is weighed (the authors' code)


class MEME(MultimodalVAE):
    """Mutual supervision: the expert of one modality is the other's prior, p(z | t) = q(z | t), and no posterior is combined.

    For s → t, z_k ~ q(z | s), and both decoders p(s | z), q(t | z) with their likelihood weights:

        L(s, t) = (1/K) Σ_k w_k [log p(s | z_k) − log q(t | z_k) − β (log q(z_k | s) − log p(z_k | t))] + α log q(t | s)
        q(t | s) = (1/K) Σ_k q(t | z_k),   w_k = q(t | z_k) / q(t | s), no gradient;   L = ½ [L(s, t) + L(t, s)]

    Where t is missing, p_u(z) = (1/N) Σ_i q(z | u_i) over learnt pseudo-inputs u of t (``pseudo`` of them) is the prior:
    L = (1/K) Σ_k log p(s | z_k) − β (log q(z_k | s) − log p_u(z_k)).

    Joy, Shi, Torr, Rainforth, Schmon & Siddharth, Learning Multimodal VAEs through Mutual Supervision, ICLR 2022, section 3.

    With α = β = 1 the value of L(s, t) is a bound on log p(s | t) = log ∫ p(s | z) p(z | t) dz (add log p(t), a constant). But without a
    gradient through w, α = 1 teaches q(t | z) nothing from s: the two terms' gradients cancel. α = 10 is the authors' choice.
    ``start(batch)``: data as the first pseudo-inputs, as the authors have them; without it they are draws from N(0, 1), in the encoder's
    terms. ``sample`` draws z from p_u of both modalities, which complete data alone do not train.

    Differs from the authors' code (thwjoy/meme, which calls an absent method for unpaired data): the log-ratio of z, not the exact KL, is
    weighed by w, as the formula has it; q(t | s) is the mean over the K samples; the mean of both directions, not their sum. ``variant=
    "published"``: q(t | s) is the mean over z_k and 10 fresh samples, and the exact KL is weighed. log p(t) is in neither.
    p_u looks at few pseudo-inputs at a time, so that its memory does not grow with their number.
    Exempt: not nested, for it takes exactly two modalities; rows that lack t move t's encoder, through its pseudo-inputs.
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
                f"meme: got modalities with roles {roles}; expected exactly two, each with role='both', for each is the "
                f"other's label; {SELECT}; or choose another model"
            )
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
        check_count(self.name, "pseudo", pseudo)
        if not isinstance(alpha, int | float) or not alpha >= 0:
            raise InputError(f"meme: got alpha={alpha!r}; expected a number, 0 or more")
        if variant not in ("sound", "published"):
            raise InputError(f"meme: unknown variant {variant!r}; {nearest(variant, ('sound', 'published'))}")
        self.K, self.alpha, self.pseudo, self.variant = K, alpha, pseudo, variant
        for spec, net in zip(modalities, self.modalities.values(), strict=True):
            net.parts["pseudo"] = pseudo_inputs(pseudo, spec.shape)
        self.prior = PseudoPrior(0, self._everything_imagined)

    def posterior(self, batch: Batch, experts: Experts) -> Mixture:
        return mixture_of_experts(experts)

    private = own_or_prior

    def bound(self, batch: Batch, experts: Experts, warm: float) -> Bound:
        K, published = self.K, self.variant == "published"
        q = self.posterior(batch, experts)  # view v: s is modality v
        z = q.stratified(K + _FRESH if published else K)  # [K', V, B, D]
        log_x = self._decode(batch, q, z)
        weighed = self.modalities.weigh(log_x)  # [M, K', V, B]
        log_s = torch.stack([weighed[0, :K, 0], weighed[1, :K, 1]], 1)  # [K, V, B]
        log_t, fresh = torch.stack([weighed[1, :, 0], weighed[0, :, 1]], 1).tensor_split([K])
        log_q = q.components.log_prob(z[:K])
        p = experts.z.map(lambda x: x.flip(0))  # p(z | t), [V, B, D]
        if published:
            log_q_t = torch.logaddexp(log_t, fresh.logsumexp(0)) - math.log(_FRESH + 1)  # [K, V, B]
            to_t = q.components.kl(p).expand_as(log_q)
        else:
            log_q_t = (log_t.logsumexp(0) - math.log(K)).expand_as(log_t)
            to_t = log_q - p.log_prob(z[:K])
        kl = torch.where(batch.mask.all(0), to_t, log_q - self._imagined_log_prob(batch, z[:K]))
        w = (log_t - log_q_t).exp().detach()  # 1 where t is missing
        each = w * (log_s - log_t - warm * self.beta * kl) + self.alpha * log_q_t
        terms = self.terms(q.weights, log_x[:, :K], {"kl/z": kl, "classifier": log_q_t})
        return Bound(over_components(q.weights, each.mean(0)), terms)

    @torch.no_grad()
    def start(self, batch: Batch) -> None:
        """Make the first ``pseudo`` data that a batch observed of each modality its pseudo-inputs. Raises InputError: too few."""
        batch = self.admit(batch, values=True)
        for row, (name, net) in zip(batch.mask, self.modalities.items(), strict=True):
            index = row.nonzero()[: self.pseudo, 0]
            if len(index) < self.pseudo:
                raise InputError(
                    f"meme: got {len(index)} observed data of modality {name!r} for {self.pseudo} pseudo-inputs; expected at "
                    "least as many; pass a larger batch, or build with a smaller pseudo="
                )
            entries = batch.entries.get(name)
            self._pseudo(net).copy_(
                net.features(batch.data[name][index], None if entries is None else entries[index])
            )

    def _decode(self, batch: Batch, q: Mixture, z: Tensor) -> Tensor:
        """log p(x | z), [M, K', V, B]: the fresh draws of a component are decoded for the other modality alone."""
        if self.variant == "sound":
            return self.decode_components(batch, q.weights, z)
        weighed = torch.arange(self.K + _FRESH, device=batch.device) < self.K  # [K']
        other = ~torch.eye(2, dtype=torch.bool, device=batch.device)
        decoded = (other[:, None, :, None] | weighed[:, None, None]) & q.active
        return self.modalities.log_likelihood(batch, z, z[..., :0], decoded)

    def _imagined_log_prob(self, batch: Batch, z: Tensor) -> Tensor:
        """log p_u(z) where the other modality is missing, 0 elsewhere: z [K, V, B, D] -> [K, V, B]."""
        views = []
        for v, name in enumerate(list(self.modalities)[::-1]):  # the other modality
            index, real = self.modalities.observed_rows(batch.mask[v] & ~batch.mask[1 - v])
            view = z.new_zeros(z.shape[2], len(z))  # [B, K]
            if len(index):
                experts = self._imagined(name, 1 if batch.complete else self.pseudo)
                log_p = sum_log_prob(experts, z[:, v, index]) - math.log(self.pseudo)  # [K, rows]
                view = placed(view, index, log_p.T, real)
            views.append(view.T)
        return torch.stack(views, 1)

    def _imagined(self, name: str, count: int) -> Diagonal:
        """q(z | u) of the first ``count`` pseudo-inputs of a modality: [count, D]."""
        return self.modalities.encode_features(name, self._pseudo(self.modalities[name])[:count]).z

    def _everything_imagined(self) -> Diagonal:
        """q(z | u) of all pseudo-inputs of both: [2N, D]."""
        first, second = (self._imagined(name, self.pseudo) for name in self.modalities)
        return type(first).cat([first, second], 0)

    def _pseudo(self, net: nn.Module) -> nn.Parameter:
        return net.get_parameter("parts.pseudo.0")
