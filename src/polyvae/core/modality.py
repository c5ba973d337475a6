"""What a user says of a modality, and the networks that follow from it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from polyvae.core.recompute import rows_apart
from polyvae.utils.errors import InputError, nearest
from polyvae.utils.imports import moved

Factory = Callable[[tuple[int, ...], Any], nn.Module]


@dataclass(frozen=True)
class Modality:
    """One modality, as a user writes it; serialises to a ``[[modality]]`` table.

    ``shape``      of one sample, without the batch axis.
    ``likelihood`` a name in LIKELIHOODS; ``params`` holds its parameters (``scale``) and the network's (``width``, ``hidden``).
    ``network``    a name in NETWORKS, for encoder and decoder; "auto" chooses by shape.
    ``private``    columns of private code; None: the model's default.
    ``weight``     multiplies this modality's log-likelihood in the bound (never elsewhere).
    ``role``       "source" is encoded, never decoded; "target" is decoded, never encoded (labels, a segmentation).
    ``encoder``, ``decoder`` override ``network``: a name in NETWORKS, an import path "package.module:factory", or a factory
                   ``(in_shape, out) -> nn.Module``: an encoder maps [B, *in_shape] to [B, out], a decoder [N, *in_shape] to [N, *out].
                   A decoder class of your own that treats each row alone, draws nothing and learns by its own parameters alone may say
                   ``rows_apart = True``: with many importance samples it is trained faster.

    Raises InputError: empty name, a shape without positive sizes, an unknown likelihood or role, a weight or size below zero.
    """

    name: str
    shape: tuple[int, ...]
    likelihood: str = "normal"
    network: str = "auto"
    private: int | None = None
    weight: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)
    role: Literal["both", "source", "target"] = "both"
    encoder: str | Factory | None = None
    decoder: str | Factory | None = None

    def __post_init__(self) -> None:
        where = f"modality {self.name!r}"
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"modality: got name {self.name!r}; expected a non-empty string; name it")
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)
        if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
            raise InputError(
                f"{where}: got shape {shape}; expected positive sizes without the batch axis, such as (200,) or (3, 32, 32)"
            )
        object.__setattr__(self, "shape", shape)
        if self.likelihood not in LIKELIHOODS:
            raise InputError(
                f"{where}: unknown likelihood {self.likelihood!r}; {nearest(self.likelihood, LIKELIHOODS)}"
            )
        if self.role not in ("both", "source", "target"):
            raise InputError(
                f"{where}: unknown role {self.role!r}; {nearest(str(self.role), ('both', 'source', 'target'))}"
            )
        if self.private is not None and self.private < 0:
            raise InputError(
                f"{where}: got private={self.private}; expected 0 or more columns; leave it out for the model's default"
            )
        if not self.weight >= 0:
            raise InputError(
                f"{where}: got weight={self.weight}; expected a number of 0 or more; 1 counts it as the likelihood says"
            )


class Codes(NamedTuple):
    """What one modality's encoder says: ``z`` [B, D], ``w`` [B, W_m]."""

    z: Diagonal
    w: Diagonal


class ModalityNet(nn.Module):
    """One modality's encoder, decoder and likelihood.

    ``seen`` is the width of z that experts and decoders see, ``private`` that of w_m. A code is z's columns, then w_m's. ``expert``: does
    the encoder say anything of z? ``parts``: what a paper adds to this modality, by name (a copy of the encoder for a joint network, the
    way to a nexus and back).
    """

    def __init__(
        self, spec: Modality, *, seen: int, private: int, posterior: str, scale: str, expert: bool = True
    ) -> None:
        super().__init__()
        self.spec = spec
        self.seen, self.private, self.told = seen, private, seen if expert else 0
        self.family, self.scale = FAMILIES[posterior], SCALES[scale]
        likelihood, network = _parameters(spec)
        self.likelihood = LIKELIHOODS[spec.likelihood](spec.shape, **likelihood)
        self.encoder = (
            _encoder(spec, (2 * self.told, 2 * private), network) if spec.role != "target" else None
        )
        self.decoder = (
            _decoder(spec, seen + private, self.likelihood.output, network) if spec.role != "source" else None
        )
        self.parts = nn.ModuleDict()

    def encode(self, x: Tensor, entries: Tensor | None = None) -> Codes:
        """x [B, *shape] -> the experts q(z | x_m) and q(w_m | x_m). ``entries`` [B, *shape]: unobserved entries count as zero.

        Where there is no expert of z, location is 0 and scale is 1.
        """
        if self.encoder is None:
            raise InputError(
                f"modality {self.spec.name!r} is a target: it is decoded, never encoded; give it role='both' to encode it"
            )
        return self.codes(self.look(x, entries))

    def codes(self, shown: Tensor) -> Codes:
        """What the encoder says of what it is shown, [B, *shape]."""
        assert self.encoder is not None
        out = self.encoder(shown)
        out = out.to(shown.dtype)  # densities in full precision, whatever autocast did
        z_loc, z_raw, w_loc, w_raw = out.split([self.told, self.told, self.private, self.private], -1)
        z = (
            self.family(z_loc, self.scale(z_raw))
            if self.told == self.seen
            else self.family.unit((len(out), self.seen), out)
        )
        return Codes(z, self.family(w_loc, self.scale(w_raw)))

    def look(self, x: Tensor, entries: Tensor | None) -> Tensor:
        """What an encoder is shown of x: zeros where entries were not observed, and counts on the scale of their logarithm."""
        return self.likelihood.features(x if entries is None else torch.where(entries, x, 0))

    def decode(self, code: Tensor) -> Tensor:
        """code [..., B, C] -> what the likelihood takes, [..., B, *output]: one decoder call."""
        if self.decoder is None:
            raise InputError(
                f"modality {self.spec.name!r} is a source: it is encoded, never decoded; give it role='both' to decode it"
            )
        lead = code.shape[:-1]
        out: Tensor = self.decoder(code.reshape(prod(lead), code.shape[-1]))
        return out.to(code.dtype).view(*lead, *self.likelihood.output)

    def log_prob(
        self, x: Tensor, code: Tensor, entries: Tensor | None = None, datum: Tensor | None = None
    ) -> Tensor:
        """log p(x | code) in nats, unweighted. x [B, *shape], code [..., B, C] -> [..., B]; with ``entries``, of the observed ones.

        ``datum`` [B']: code [..., B', C] is that of these rows of x -> [..., B'].
        """
        lead, linear = code.shape[:-1], self.last_layer(entries is not None)
        if linear is not None:
            assert self.decoder is not None
            hidden: Tensor = self.decoder(code.reshape(prod(lead), code.shape[-1]), hidden=True)
            rows = None if datum is None else datum.expand(lead).flatten()
            return linear[1].log_prob_linear(hidden.view(*lead, -1), linear[0], x, rows)
        if datum is not None:
            x, entries = x.index_select(0, datum), None if entries is None else entries.index_select(0, datum)
        return self.likelihood.log_prob(self.decode(code), x, entries)

    def decodes_again(self, rows: int, data: int, entries: bool) -> bool:
        """Whether it pays to decode ``rows`` codes of ``data`` samples without a graph, and some of them again.

        It does where rows stand apart and each has its share of the cost. ``entries``: are there gaps inside samples?
        """
        if self.decoder is None or not rows_apart(self.decoder):
            return False
        linear = self.last_layer(entries)
        return linear is None or not linear[1].needs_no_output(linear[0], rows, data)

    def last_layer(self, entries: bool) -> tuple[nn.Linear, Scaled] | None:
        """The decoder's last layer and the likelihood, where that takes the layer instead of what it says."""
        decoder, likelihood = self.decoder, self.likelihood
        if (
            entries
            or not isinstance(decoder, LinearDecoder)
            or not isinstance(likelihood, Scaled)
            or not likelihood.takes_linear
        ):
            return None
        return decoder.last, likelihood

    def mean(self, code: Tensor) -> Tensor:
        """E[x | code]: [..., B, *shape]."""
        return self.likelihood.mean(self.decode(code))

    def sample(self, code: Tensor) -> Tensor:
        """A draw from p(x | code): [..., B, *shape]."""
        return self.likelihood.sample(self.decode(code))


class Modalities(nn.Module, Mapping[str, ModalityNet]):
    """name -> ModalityNet, in order. Any non-empty name is legal: torch's own dictionary refuses dots and attribute names."""

    def __init__(self, nets: Mapping[str, ModalityNet]) -> None:
        super().__init__()
        self._names = tuple(nets)
        self.nets = nn.ModuleList(nets.values())

    def __getitem__(self, name: str) -> ModalityNet:
        if name not in self._names:
            raise KeyError(f"modality {name!r} is not in the model; {nearest(name, self._names)}")
        net = self.nets[self._names.index(name)]
        assert isinstance(net, ModalityNet)
        return net

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __hash__(self) -> int:  # Mapping compares by value and so drops nn.Module's
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def unless_target(modalities: Sequence[Modality], size: int) -> list[int]:
    """Columns of private code by default: a target, which is never encoded, has none."""
    return [0 if spec.role == "target" else size for spec in modalities]


def another_encoder(spec: Modality, out: int) -> nn.Module:
    """A second copy of the modality's encoder, with parameters of its own: [B, *shape] -> [B, out]."""
    return _encoder(spec, (out, 0), _parameters(spec)[1])


def load_factory(spec: Modality, path: str) -> Factory:
    """The factory that an import path "package.module:name" names."""
    module, _, name = moved(path).partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as problem:
        raise InputError(
            f"modality {spec.name!r}: cannot import {path!r} ({problem}); expected a network's name or "
            "'package.module:factory'"
        ) from None
    assert callable(factory)
    return factory  # type: ignore[no-any-return]  # getattr is untyped


def _network_name(spec: Modality) -> str:
    return auto(spec.shape) if spec.network == "auto" else spec.network


def _parameters(spec: Modality) -> tuple[dict[str, Any], dict[str, Any]]:
    """``params`` split into the likelihood's and the network's."""
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
                f"modality {spec.name!r}: unknown parameter {key!r}; {nearest(key, sorted(likelihood | network))}"
            )
    return (
        {key: value for key, value in spec.params.items() if key in likelihood},
        {key: value for key, value in spec.params.items() if key in network},
    )


def _factory(spec: Modality, override: str | Factory | None, index: int) -> tuple[Factory, bool, set[str]]:
    """The factory, whether z and w get encoders of their own, and the parameters that it takes."""
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


def _decoder(spec: Modality, code: int, output: tuple[int, ...], params: Mapping[str, Any]) -> nn.Module:
    factory, _, accepted = _factory(spec, spec.decoder, 1)
    return factory((code,), output, **{key: value for key, value in params.items() if key in accepted})
