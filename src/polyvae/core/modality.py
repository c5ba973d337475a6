"""The specification of a modality, and its networks."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from polyvae.core.distributions import FAMILIES, SCALES, Diagonal
from polyvae.core.likelihoods import LIKELIHOODS, Scaled
from polyvae.core.networks import NETWORKS, auto
from polyvae.core.networks.kinds import Branches
from polyvae.core.networks.mlp import LinearDecoder
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.renamed import moved

Factory = Callable[[tuple[int, ...], Any], nn.Module]
ROLES = ("both", "input", "target")


@dataclass(frozen=True)
class Modality:
    """One modality, as a user writes it. It serialises to a ``[[modality]]`` table.

    Args:
        name: Any non-empty string.
        shape: The shape of one sample, without the batch axis.
        likelihood: A name in LIKELIHOODS.
        network: A name in NETWORKS, for encoder and decoder; "auto" chooses by shape.
        private: Columns of the private latent; None: the default of the model.
        weight: Multiplies the log-likelihood of this modality in the objective, and nowhere else.
        params: Parameters of the likelihood (``scale``) and of the network (``width``, ``hidden``).
        role: "both": encoded and decoded. "input": encoded, never decoded. "target": decoded, never
            encoded (labels, a segmentation). "source" is an old spelling of "input".
        encoder: Replaces the encoder of ``network``: a name in NETWORKS, an import path
            "package.module:factory", or a factory ``(in_shape, out) -> nn.Module``. The module maps
            [B, *in_shape] to [B, out].
        decoder: Replaces the decoder of ``network``. Its module maps [N, *in_shape] to [N, *out]. A
            user-defined class whose output for a row depends on that row alone, and which draws nothing,
            may declare ``rows_apart = True``. It then trains faster with many importance samples.

    Raises:
        InputError: An empty name, a shape without positive sizes, an unknown likelihood or role, or a
            negative weight or size.

    Example:
        >>> import polyvae as pv
        >>> pv.Modality("rna", 200, likelihood="poisson").shape
        (200,)
    """

    name: str
    shape: tuple[int, ...]
    likelihood: str = "normal"
    network: str = "auto"
    private: int | None = None
    weight: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)
    role: Literal["both", "input", "target"] = "both"
    encoder: str | Factory | None = None
    decoder: str | Factory | None = None

    def __post_init__(self) -> None:
        where = f"modality {self.name!r}"
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"modality: got name {self.name!r}; expected a non-empty string; name it")
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)
        if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
            raise InputError(
                f"{where}: got shape {shape}; expected positive sizes without the batch axis, such as (200,) "
                "or (3, 32, 32)"
            )
        object.__setattr__(self, "shape", shape)
        if self.likelihood not in LIKELIHOODS:
            raise InputError(
                f"{where}: unknown likelihood {self.likelihood!r}; {nearest(self.likelihood, LIKELIHOODS)}"
            )
        if str(self.role) == "source":  # bundles and configurations from before the name changed
            object.__setattr__(self, "role", "input")
        if self.role not in ROLES:
            raise InputError(f"{where}: unknown role {self.role!r}; {nearest(str(self.role), ROLES)}")
        if self.private is not None and self.private < 0:
            raise InputError(
                f"{where}: got private={self.private}; expected 0 or more columns; leave it out for the "
                "default of the model"
            )
        if not self.weight >= 0:
            raise InputError(
                f"{where}: got weight={self.weight}; expected a number, 0 or more; 1 leaves the "
                "log-likelihood as it is"
            )


class Encoded(NamedTuple):
    """The experts of one modality: ``z`` [B, D] and ``w`` [B, W_m]."""

    z: Diagonal
    w: Diagonal


class ModalityNet(nn.Module):
    """The encoder, the decoder and the likelihood of one modality.

    The latents of a modality are the columns of z that its decoder sees, followed by w_m.

    Args:
        spec: The specification of the modality.
        seen: Columns of z that experts and decoders see.
        private: Columns of w_m.
        posterior: The family of the experts, a name in FAMILIES.
        scale: The map from network outputs to scales, a name in SCALES.
        expert: Whether the encoder returns an expert of z.

    Attributes:
        parts: Further networks of a model for this modality, by name (a second encoder for a joint
            network, the map from z to w_m).
    """

    def __init__(
        self, spec: Modality, *, seen: int, private: int, posterior: str, scale: str, expert: bool = True
    ) -> None:
        super().__init__()
        self.spec = spec
        self.seen, self.private, self.expert = seen, private, seen if expert else 0
        self.family, self.scale = FAMILIES[posterior], SCALES[scale]
        likelihood, network = _parameters(spec)
        self.likelihood = LIKELIHOODS[spec.likelihood](spec.shape, **likelihood)
        self.encoder = (
            _encoder(spec, (2 * self.expert, 2 * private), network) if spec.role != "target" else None
        )
        self.decoder = (
            _decoder(spec, seen + private, self.likelihood.output, network) if spec.role != "input" else None
        )
        self.parts = nn.ModuleDict()

    def encode(self, x: Tensor, entries: Tensor | None = None) -> Encoded:
        """The experts q(z | x_m) and q(w_m | x_m).

        Args:
            x: [B, *shape].
            entries: [B, *shape] bool; entries that were not observed are replaced by zero.

        Returns:
            ``z`` [B, D], of location 0 and scale 1 where the encoder has no expert of z, and ``w`` [B,
            W_m].

        Raises:
            InputError: The modality is a target, which has no encoder.
        """
        if self.encoder is None:
            raise InputError(
                f"modality {self.spec.name!r} is a target, which is decoded and never encoded; expected role "
                "'both' or 'input'; change its role"
            )
        return self.encode_features(self.features(x, entries))

    def encode_features(self, features: Tensor) -> Encoded:
        """The experts given the input of the encoder, [B, *shape]."""
        assert self.encoder is not None
        out = self.encoder(features)
        out = out.to(features.dtype)  # densities in full precision, also under autocast
        z_loc, z_raw, w_loc, w_raw = out.split([self.expert, self.expert, self.private, self.private], -1)
        z = (
            self.family(z_loc, self.scale(z_raw))
            if self.expert == self.seen
            else self.family.unit((len(out), self.seen), out)
        )
        return Encoded(z, self.family(w_loc, self.scale(w_raw)))

    def features(self, x: Tensor, entries: Tensor | None) -> Tensor:
        """The input of the encoder: zero where entries were not observed, counts on a logarithmic scale."""
        return self.likelihood.features(x if entries is None else torch.where(entries, x, 0))

    def decode(self, latents: Tensor) -> Tensor:
        """The parameters of the likelihood, by one decoder call: [..., B, C] -> [..., B, *output].

        Raises:
            InputError: The modality is an input, which has no decoder.
        """
        if self.decoder is None:
            raise InputError(
                f"modality {self.spec.name!r} is an input, which is encoded and never decoded; expected role "
                "'both' or 'target'; change its role"
            )
        lead = latents.shape[:-1]
        out: Tensor = self.decoder(latents.reshape(prod(lead), latents.shape[-1]))
        return out.to(latents.dtype).view(*lead, *self.likelihood.output)

    def log_prob(
        self, x: Tensor, latents: Tensor, entries: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """log p(x | latents) in nats, unweighted.

        Args:
            x: [B, *shape].
            latents: [..., B, C], or [..., B', C] with ``rows``.
            entries: [B, *shape] bool, the entries to count; None: all.
            rows: [B'], the samples of x that the latents belong to; None: the samples in order.

        Returns:
            [..., B], or [..., B'] with ``rows``.
        """
        lead, linear = latents.shape[:-1], self.last_layer(entries is not None)
        if linear is not None:
            assert self.decoder is not None
            hidden: Tensor = self.decoder(latents.reshape(prod(lead), latents.shape[-1]), hidden=True)
            rows = None if rows is None else rows.expand(lead).flatten()
            return linear[1].log_prob_linear(hidden.view(*lead, -1), linear[0], x, rows)
        if rows is not None:
            x, entries = x.index_select(0, rows), None if entries is None else entries.index_select(0, rows)
        return self.likelihood.log_prob(self.decode(latents), x, entries)

    def last_layer(self, entries: bool) -> tuple[nn.Linear, Scaled] | None:
        """The decoder's last layer and the likelihood, if the likelihood can use the layer itself.

        It then computes log-densities from the input of the layer, without the output.

        Args:
            entries: Whether entries are missing inside samples.
        """
        decoder, likelihood = self.decoder, self.likelihood
        if (
            entries
            or not isinstance(decoder, LinearDecoder)
            or not isinstance(likelihood, Scaled)
            or not likelihood.takes_linear
        ):
            return None
        return decoder.last, likelihood

    def generate(
        self, latents: Tensor, sample: bool = False, x: Tensor | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """E[x | latents], or with ``sample`` a draw from p(x | latents).

        Args:
            latents: [..., B, C].
            sample: Draw from the likelihood.
            x: [B, *shape]; counts are generated at the library sizes of these samples. None: at the likelihood's own.
            observed: [B, *shape] bool, the observed entries of x.

        Returns:
            [..., B, *shape].
        """
        out = self.decode(latents)
        library = None if x is None or observed is None else self.likelihood.library_of(out, x, observed)
        return (self.likelihood.sample if sample else self.likelihood.mean)(out, library)

    def mean(self, latents: Tensor) -> Tensor:
        """E[x | latents]: [..., B, C] -> [..., B, *shape]."""
        return self.generate(latents)

    def sample(self, latents: Tensor) -> Tensor:
        """A draw from p(x | latents): [..., B, C] -> [..., B, *shape]."""
        return self.generate(latents, sample=True)


def unless_target(modalities: Sequence[Modality], size: int) -> list[int]:
    """Default numbers of private columns: a target, which is never encoded, has none."""
    return [0 if spec.role == "target" else size for spec in modalities]


def another_encoder(spec: Modality, out: int) -> nn.Module:
    """A second copy of the encoder with its own parameters: [B, *shape] -> [B, out]."""
    return _encoder(spec, (out, 0), _parameters(spec)[1])


def load_factory(spec: Modality, path: str) -> Factory:
    """The factory at an import path "package.module:name"."""
    module, _, name = moved(path).partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as problem:
        raise InputError(
            f"modality {spec.name!r}: cannot import {path!r} ({problem}); expected the name of a network "
            "or 'package.module:factory'"
        ) from None
    if not callable(factory):
        raise InputError(
            f"modality {spec.name!r}: got {path!r}, which is no factory; expected a function (in_shape, out) -> nn.Module; "
            "correct the path"
        )
    return factory  # type: ignore[no-any-return]  # getattr is untyped


def _network_name(spec: Modality) -> str:
    return auto(spec.shape) if spec.network == "auto" else spec.network


def _parameters(spec: Modality) -> tuple[dict[str, Any], dict[str, Any]]:
    """``params``, split into those of the likelihood and those of the network."""
    if spec.network != "auto" and spec.network not in NETWORKS:
        raise InputError(
            f"modality {spec.name!r}: unknown network {spec.network!r}; {nearest(spec.network, NETWORKS)}"
        )
    likelihood = set(inspect.signature(LIKELIHOODS[spec.likelihood]).parameters) - {"shape"}
    network = {"separate"}
    for chosen in (_network_name(spec), spec.encoder, spec.decoder):
        if isinstance(chosen, str) and chosen in NETWORKS:
            for factory in NETWORKS[chosen][:2]:
                network |= set(inspect.signature(factory).parameters) - {"in_shape", "out"}
    for key in spec.params:
        if key not in likelihood | network:
            raise InputError(
                f"modality {spec.name!r}: unknown parameter {key!r}; "
                f"{nearest(key, sorted(likelihood | network))}"
            )
    return (
        {key: value for key, value in spec.params.items() if key in likelihood},
        {key: value for key, value in spec.params.items() if key in network},
    )


def _factory(spec: Modality, override: str | Factory | None, index: int) -> tuple[Factory, bool, set[str]]:
    """The factory, whether z and w have separate encoders, and the parameters that the factory accepts."""
    chosen = override if override is not None else _network_name(spec)
    if not isinstance(chosen, str):
        return chosen, False, set()
    if chosen in NETWORKS:
        network = NETWORKS[chosen]
        factory = network.encoder if index == 0 else network.decoder
        return factory, network.separate, set(inspect.signature(factory).parameters) - {"in_shape", "out"}
    if ":" not in chosen:
        raise InputError(f"modality {spec.name!r}: unknown network {chosen!r}; {nearest(chosen, NETWORKS)}")
    return load_factory(spec, chosen), False, set()


def _encoder(spec: Modality, heads: tuple[int, int], params: Mapping[str, Any]) -> nn.Module:
    factory, separate, accepted = _factory(spec, spec.encoder, 0)
    options = {key: value for key, value in params.items() if key in accepted}
    if params.get("separate", separate) and all(heads):
        return Branches(*(factory(spec.shape, out, **options) for out in heads))
    return factory(spec.shape, sum(heads), **options)


def _decoder(spec: Modality, latents: int, output: tuple[int, ...], params: Mapping[str, Any]) -> nn.Module:
    factory, _, accepted = _factory(spec, spec.decoder, 1)
    return factory((latents,), output, **{key: value for key, value in params.items() if key in accepted})
