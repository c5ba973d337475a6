"""The specification of a modality, and its networks."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from polyvae.core import covariates as conditioning
from polyvae.core.covariates import Covariate
from polyvae.core.distributions import FAMILIES, SCALES, Diagonal
from polyvae.core.likelihoods import LIKELIHOODS, Likelihood, OneHot, Scaled
from polyvae.core.likelihoods.unknown import unknown_likelihood, unknown_parameter
from polyvae.core.networks import NETWORKS, auto
from polyvae.core.networks.conditioned import ConditionedReader, features_for
from polyvae.core.networks.kinds import Branches, looks_grey, looks_like_image
from polyvae.core.networks.mlp import LinearDecoder
from polyvae.utils.errors import InputError, check_count, is_number, nearest
from polyvae.utils.renamed import moved

Factory = Callable[[tuple[int, ...], Any], nn.Module]
ROLES = ("both", "input", "target")
COLUMNS = "covariates"  # of a decoder factory: how many of its last inputs are covariates, for one that treats them apart
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Modality:
    """One modality, as a user writes it. It serialises to a ``[[modality]]`` table.

    Args:
        name: Any non-empty string.
        shape: The shape of one sample, without the batch axis.
        likelihood: A name in LIKELIHOODS, or an import path "package.module:factory" of a subclass of
            Likelihood, or of a function ``(shape, **params)`` that returns one.
        network: A name in NETWORKS, for encoder and decoder; "auto" chooses by shape, and "text" for
            sentences.
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
        entries: Whether entries may be missing inside samples. If so, the first axis of the encoder's
            input is twice as long: the values, less their means over the observed training entries and 0
            where missing, then 1 where an entry was observed and 0 where it was not. ``fit`` computes
            the means. Otherwise missing entries are zeros to the encoder.
        covariates: What its encoder and its decoder are conditioned on: names of covariates, whose levels and scales
            ``data.modalities()`` reads from the data, or Covariate. The C columns of these are the last ones of what a
            decoder is given, ``in_shape`` (latents + C,). An encoder is given them at the end of the first axis,
            ``in_shape`` (shape[0] + C, *shape[1:]), constant along other axes: further features of a table, further
            channels of an image. Of token ids, a perceptron joins them to what the encoder found in the ids.

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
    entries: bool = False
    covariates: tuple[Covariate | str, ...] = ()

    def __post_init__(self) -> None:
        where = f"modality {self.name!r}"
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"modality: got name {self.name!r}; expected a non-empty string; name it")
        shape = (self.shape,) if isinstance(self.shape, int) else self.shape
        shape = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
        if not shape or any(
            not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in shape
        ):
            raise InputError(
                f"{where}: got shape {self.shape!r}; expected positive sizes without the batch axis, such as (200,) "
                "or (3, 32, 32)"
            )
        object.__setattr__(self, "shape", shape)
        if not isinstance(self.likelihood, str) or (
            self.likelihood not in LIKELIHOODS and ":" not in self.likelihood
        ):
            raise InputError(f"{where}: {unknown_likelihood(self.likelihood, LIKELIHOODS)}")
        if str(self.role) == "source":  # bundles and configurations from before the name changed
            object.__setattr__(self, "role", "input")
        if self.role not in ROLES:
            raise InputError(f"{where}: unknown role {self.role!r}; {nearest(str(self.role), ROLES)}")
        if self.private is not None and (
            not isinstance(self.private, int) or isinstance(self.private, bool) or self.private < 0
        ):
            raise InputError(
                f"{where}: got private={self.private!r}; expected a whole number of columns, 0 or more; leave it "
                "out for the default of the model"
            )
        if not is_number(self.weight) or self.weight < 0:
            raise InputError(
                f"{where}: got weight={self.weight!r}; expected a finite number, 0 or more; 1 leaves the "
                "log-likelihood as it is"
            )
        if not isinstance(self.params, Mapping):
            raise InputError(
                f"{where}: got params={self.params!r}; expected a mapping from names to values, such as {{'width': 2}}"
            )
        if not isinstance(self.entries, bool):
            raise InputError(
                f"{where}: got entries={self.entries!r}; expected True (entries may be missing inside samples) or "
                "False; a mask of entries belongs to the data"
            )
        object.__setattr__(self, "covariates", conditioning.check_covariates(where, self.covariates))
        for side, given in (("encoder", self.encoder), ("decoder", self.decoder)):
            if isinstance(given, nn.Module) or not (
                given is None or isinstance(given, str) or callable(given)
            ):
                raise InputError(
                    f"{where}: got {type(given).__name__} as {side}; expected the name of a network, an import "
                    "path, or a factory (in_shape, out) -> nn.Module; pass a function that builds it"
                )


class Encoded(NamedTuple):
    """The experts of one modality: ``z`` [B, D] and ``w`` [B, W_m]."""

    z: Diagonal
    w: Diagonal


class ModalityNet(nn.Module):
    """The encoder, the decoder and the likelihood of one modality.

    The latents of a modality are the columns of z that its decoder sees, followed by w_m, and by the columns of
    its covariates if it declares any.

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
        centre: [*shape], the means of the encoder's features over the observed training entries, for a
            modality with ``entries``.
        covariates: The covariates that encoder and decoder are conditioned on.
    """

    centre: Tensor | None

    def __init__(
        self, spec: Modality, *, seen: int, private: int, posterior: str, scale: str, expert: bool = True
    ) -> None:
        super().__init__()
        self.spec = spec
        self.seen, self.private, self.expert = seen, private, seen if expert else 0
        self.family, self.scale = FAMILIES[posterior], SCALES[scale]
        self.covariates = conditioning.ready(f"modality {spec.name!r}", spec.covariates)
        likelihood, network = _parameters(spec)
        self.likelihood = _likelihood(spec, likelihood)
        self.encoder = (
            _encoder(spec, (2 * self.expert, 2 * private), network) if spec.role != "target" else None
        )
        self.decoder = (
            _decoder(
                spec, seen + private + conditioning.width(spec.covariates), self.likelihood.output, network
            )
            if spec.role != "input"
            else None
        )
        self.parts = nn.ModuleDict()
        if spec.network == "auto" and looks_like_image(spec.shape) and _network_name(spec) == "mlp":
            _warn_of_flat_network(spec, sum(parameter.numel() for parameter in self.parameters()))
        if spec.network == "auto" and looks_grey(spec.shape) and not isinstance(self.likelihood, OneHot):
            _warn_of_no_channels(spec)
        self.register_buffer("centre", torch.zeros(spec.shape) if spec.entries else None)

    def encode(self, x: Tensor, entries: Tensor | None = None, covariates: Tensor | None = None) -> Encoded:
        """The experts q(z | x_m) and q(w_m | x_m).

        Args:
            x: [B, *shape].
            entries: [B, *shape] bool, the observed entries; None: all.
            covariates: [B, C], the columns of its covariates; None: it declares none.

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
        return self.encode_features(self.features(x, entries), entries, covariates)

    def encode_features(
        self, features: Tensor, entries: Tensor | None = None, covariates: Tensor | None = None
    ) -> Encoded:
        """The experts given features [B, *shape], which entries of them were observed (None: all), and covariates [B, C]."""
        assert self.encoder is not None
        with fewest_rows(self.encoder, len(features)):
            out = self.encoder(self.encoder_input(features, entries, covariates))
        sizes = [self.expert, self.expert, self.private, self.private]
        if out.shape != (len(features), sum(sizes)):
            raise InputError(
                f"modality {self.spec.name!r}: got an encoder output of shape {tuple(out.shape)}; expected "
                f"({len(features)}, {sum(sizes)}), a row per sample and the number of columns that its factory is "
                "called with as out; correct the last layer"
            )
        out = out.to(features.dtype)  # densities in full precision, also under autocast
        z_loc, z_raw, w_loc, w_raw = out.split(sizes, -1)
        z = (
            self.family(z_loc, self.scale(z_raw))
            if self.expert == self.seen
            else self.family.unit((len(out), self.seen), out)
        )
        return Encoded(z, self.family(w_loc, self.scale(w_raw)))

    def features(self, x: Tensor, entries: Tensor | None) -> Tensor:
        """What of the data the encoder is given: [B, *shape] -> [B, *shape], counts on a logarithmic scale.

        Entries that were not observed are at the centre of the modality, or zero if it does not declare
        that entries may be missing.
        """
        if entries is None:
            return self.likelihood.features(x)
        features = self.likelihood.features(torch.where(entries, x, 0))
        return features if self.centre is None else torch.where(entries, features, self.centre)

    def encoder_input(
        self, features: Tensor, entries: Tensor | None, covariates: Tensor | None = None
    ) -> Tensor:
        """The features, and beside them which entries were observed if the modality declares ``entries``, and its covariates."""
        parts = [features]
        if self.centre is not None:
            observed = torch.ones_like(features) if entries is None else entries.to(features.dtype)
            parts = [features - self.centre, observed]
        if self.covariates:
            if covariates is None:
                raise InputError(
                    f"modality {self.spec.name!r}: got no covariates; expected the {conditioning.width(self.covariates)} columns of "
                    "its covariates; pass covariates= to encode, or call the methods of the model, which read them from the batch"
                )
            shape = features.shape[2:]
            parts.append(covariates.view(*covariates.shape, *[1] * len(shape)).expand(-1, -1, *shape))
        return torch.cat(parts, 1) if len(parts) > 1 else features

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
        with fewest_rows(self.decoder, prod(lead)):
            out: Tensor = self.decoder(latents.reshape(prod(lead), latents.shape[-1]))
        if out.shape[0] != prod(lead) or out[:1].numel() != prod(self.likelihood.output) * min(1, len(out)):
            raise InputError(
                f"modality {self.spec.name!r}: got a decoder output of shape {tuple(out.shape)}; expected "
                f"{(prod(lead), *self.likelihood.output)}, as its factory is called with; correct the last layer"
            )
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
        return self.generated(self.decode(latents), sample, x, observed)

    def generated(
        self, out: Tensor, sample: bool = False, x: Tensor | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """As ``generate``, for an output of the decoder, [..., B, *output]."""
        library = None if x is None or observed is None else self.likelihood.library_of(out, x, observed)
        return (self.likelihood.sample if sample else self.likelihood.mean)(out, library)

    def mean(self, latents: Tensor) -> Tensor:
        """E[x | latents]: [..., B, C] -> [..., B, *shape]."""
        return self.generate(latents)

    def sample(self, latents: Tensor) -> Tensor:
        """A draw from p(x | latents): [..., B, C] -> [..., B, *shape]."""
        return self.generate(latents, sample=True)


@contextmanager
def fewest_rows(network: nn.Module, rows: int, counted: bool = True) -> Iterator[None]:
    """Let batch normalisation use its running statistics where a batch has none of its own.

    This is so for a layer with one value per channel, which torch refuses in training, and for all layers if
    the rows do not count; running statistics are then unchanged.

    Args:
        network: The network that is called in the context.
        rows: The rows that it is called with.
        counted: Whether the rows are data.
    """
    if (rows > 1 and counted) or not network.training:
        yield
        return
    layers = [layer for layer in network.modules() if isinstance(layer, _BATCH_NORM) and layer.training]

    def still(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        if not counted or given[0].numel() == given[0].shape[1]:
            layer.training = False

    hooks = [layer.register_forward_pre_hook(still) for layer in layers if layer.track_running_stats]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            layer.training = True


def unless_target(modalities: Sequence[Modality], size: int) -> list[int]:
    """Default numbers of private columns: a target, which is never encoded, has none."""
    return [0 if spec.role == "target" else size for spec in modalities]


def another_encoder(spec: Modality, out: int) -> nn.Module:
    """A second copy of the encoder with its own parameters: encoder input -> [B, out]."""
    return _encoder(spec, (out, 0), _parameters(spec)[1])


def likelihood_maker(spec: Modality) -> Callable[..., Any]:
    """The class of the likelihood, or the function at its import path: (shape, **params) -> Likelihood."""
    if spec.likelihood in LIKELIHOODS:
        return LIKELIHOODS[spec.likelihood]
    return load_factory(spec, spec.likelihood)


def load_factory(spec: Modality, path: str) -> Callable[..., Any]:
    """The factory at an import path "package.module:name"."""
    module, _, name = moved(path).partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as problem:
        raise InputError(
            f"modality {spec.name!r}: cannot import {path!r} ({problem}); expected a known name "
            "or 'package.module:factory'; check the path and that it is installed"
        ) from None
    if not callable(factory):
        raise InputError(
            f"modality {spec.name!r}: got {path!r}, which is no factory; expected a function that returns an nn.Module; "
            "correct the path"
        )
    return factory  # type: ignore[no-any-return]  # getattr is untyped


def _likelihood(spec: Modality, params: Mapping[str, Any]) -> Likelihood:
    maker = likelihood_maker(spec)
    for key, parameter in list(inspect.signature(maker).parameters.items())[1:]:
        if parameter.default is parameter.empty and parameter.kind in _NAMED and key not in params:
            raise InputError(
                f"modality {spec.name!r}: got no {key!r} for likelihood {spec.likelihood!r}; expected it in params; "
                f"add it, such as params={{{key!r}: ...}}"
            )
    made = maker(spec.shape, **params)
    if not isinstance(made, Likelihood):
        raise InputError(
            f"modality {spec.name!r}: got {type(made).__name__} from {spec.likelihood!r}; expected a "
            "polyvae.core.likelihoods.Likelihood; return an instance of a subclass"
        )
    if made.ids and spec.entries:
        raise InputError(
            f"modality {spec.name!r}: got entries=True for likelihood {spec.likelihood!r}; expected False, because a text is "
            "observed as a whole or not at all; mark the sample as missing in mask"
        )
    if made.ids and not _of_ids(spec):
        _check_reader(spec)
    if spec.role == "input":
        made.requires_grad_(False)  # never used, and distributed training waits for every gradient
    return made


def _of_ids(spec: Modality) -> bool:
    """Whether values are ids, as far as the class of the likelihood declares it."""
    maker = likelihood_maker(spec)
    return isinstance(maker, type) and issubclass(maker, Likelihood) and maker.ids


def _warn_of_no_channels(spec: Modality) -> None:
    warnings.warn(
        f"modality {spec.name!r}: network='auto' made a flat network for samples of shape {spec.shape}; expected (1, height, width) "
        "of a grey image for a convolutional one; add a channel axis, as x[:, None] does, or choose a network",
        stacklevel=4,
    )


def _warn_of_flat_network(spec: Modality, parameters: int) -> None:
    warnings.warn(
        f"modality {spec.name!r}: network='auto' made a flat network of {parameters:,} parameters for samples of shape "
        f"{spec.shape}; expected (channels, height, width) with at most 4 channels and sides of 8 or more for a convolutional "
        "one; put the channels first, or choose a network",
        stacklevel=4,
    )


def _network_name(spec: Modality) -> str:
    if spec.network != "auto":
        return spec.network
    return "text" if _of_ids(spec) else auto(spec.shape)


def _parameters(spec: Modality) -> tuple[dict[str, Any], dict[str, Any]]:
    """``params``, split into those of the likelihood and those of the network."""
    if spec.network != "auto" and spec.network not in NETWORKS:
        raise InputError(
            f"modality {spec.name!r}: unknown network {spec.network!r}; {nearest(spec.network, NETWORKS)}"
        )
    likelihood = set(inspect.signature(likelihood_maker(spec)).parameters) - {"shape"}
    network = {"separate"}
    for chosen in (_network_name(spec), spec.encoder, spec.decoder):
        if isinstance(chosen, str) and chosen in NETWORKS:
            for factory in NETWORKS[chosen][:2]:
                network |= _accepted(factory) - {COLUMNS}
    known = likelihood | network
    for key in spec.params:
        if key not in known:
            raise InputError(f"modality {spec.name!r}: {unknown_parameter(key, spec.likelihood, known)}")
    _check_network_parameters(spec)
    if _of_ids(spec):
        _check_reader(spec)
    return (
        {key: value for key, value in spec.params.items() if key in likelihood},
        {key: value for key, value in spec.params.items() if key in network},
    )


def _check_reader(spec: Modality) -> None:
    """Raises InputError: an encoder of numbers for ids."""
    reader = spec.encoder if spec.encoder is not None else _network_name(spec)
    if spec.role != "target" and reader in NETWORKS and reader != "text":
        raise InputError(
            f"modality {spec.name!r}: got network {reader!r} for likelihood {spec.likelihood!r}, whose ids are no quantities; "
            "expected 'text' or a user-defined encoder; change it"
        )


def _check_network_parameters(spec: Modality) -> None:
    """Raises InputError: sizes of networks that are not positive numbers."""
    where, params = f"modality {spec.name!r}: params", spec.params
    if "width" in params and (not is_number(params["width"]) or params["width"] <= 0):
        raise InputError(
            f"{where}: got width={params['width']!r}; expected a finite number above 0; 1 is the default"
        )
    if "hidden" in params:
        sizes = params["hidden"]
        if not isinstance(sizes, Sequence) or isinstance(sizes, str):
            raise InputError(
                f"{where}: got hidden={sizes!r}; expected a list of the sizes of the hidden layers, such as [512, 256]"
            )
        for size in sizes:
            check_count(where, "hidden", size)
    if "dropout" in params and not (is_number(params["dropout"]) and 0 <= params["dropout"] < 1):
        raise InputError(
            f"{where}: got dropout={params['dropout']!r}; expected a probability below 1; 0 drops nothing"
        )
    for key in ("norm", "separate"):
        if not isinstance(params.get(key, False), bool):
            raise InputError(f"{where}: got {key}={params[key]!r}; expected True or False; choose one")


@cache  # of the factories of NETWORKS: to inspect them takes a tenth of the time to build a small model
def _accepted(factory: Factory) -> frozenset[str]:
    """The parameters that a factory accepts."""
    return frozenset(inspect.signature(factory).parameters) - {"in_shape", "out"}


def _factory(
    spec: Modality, override: str | Factory | None, index: int
) -> tuple[Factory, bool, frozenset[str]]:
    """The factory, whether z and w have separate encoders, and the parameters that the factory accepts."""
    chosen = override if override is not None else _network_name(spec)
    if not isinstance(chosen, str):
        return chosen, False, frozenset()
    if chosen in NETWORKS:
        network = NETWORKS[chosen]
        factory = network.encoder if index == 0 else network.decoder
        return factory, network.separate, _accepted(factory)
    if ":" not in chosen:
        raise InputError(f"modality {spec.name!r}: unknown network {chosen!r}; {nearest(chosen, NETWORKS)}")
    return load_factory(spec, chosen), False, frozenset()


def _encoder(spec: Modality, heads: tuple[int, int], params: Mapping[str, Any]) -> nn.Module:
    factory, separate, accepted = _factory(spec, spec.encoder, 0)
    options = {key: value for key, value in params.items() if key in accepted}
    columns = conditioning.width(spec.covariates)
    reads = bool(columns) and (_of_ids(spec) or (spec.encoder is None and _network_name(spec) == "text"))
    first = (2 if spec.entries else 1) * spec.shape[0] + (0 if reads else columns)
    outs = heads if params.get("separate", separate) and all(heads) else (sum(heads),)
    built = []
    for out in outs:
        size = features_for(out) if reads else out
        network = _built(spec, "encoder", factory((first, *spec.shape[1:]), size, **options))
        built.append(ConditionedReader(network, columns, size, out) if reads else network)
    return built[0] if len(built) == 1 else Branches(*built)


def _decoder(spec: Modality, latents: int, output: tuple[int, ...], params: Mapping[str, Any]) -> nn.Module:
    factory, _, accepted = _factory(spec, spec.decoder, 1)
    options = {key: value for key, value in params.items() if key in accepted}
    if COLUMNS in accepted:
        options[COLUMNS] = conditioning.width(spec.covariates)
    return _built(spec, "decoder", factory((latents,), output, **options))


def _built(spec: Modality, side: str, network: object) -> nn.Module:
    if not isinstance(network, nn.Module):
        raise InputError(
            f"modality {spec.name!r}: got {type(network).__name__} from the factory of its {side}; expected an "
            "nn.Module; return the network from the factory"
        )
    return network
