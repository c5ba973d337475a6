"""The networks of all modalities side by side: the only place that encodes or decodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from polyvae.core import covariates as conditioning
from polyvae.core.aggregate import Experts
from polyvae.core.batch import Batch
from polyvae.core.distributions import Diagonal
from polyvae.core.modality import Encoded, ModalityNet, fewest_rows
from polyvae.core.recompute import Decoding, plan, rows_apart
from polyvae.utils.devices import to_device
from polyvae.utils.errors import InputError, nearest

_ROWS = 1024  # rows that are decoded at a time where no gradient is needed


class Modalities(nn.Module, Mapping[str, ModalityNet]):
    """A mapping name -> ModalityNet, in order, and the layout of the private latents.

    Only samples that were observed are encoded, and only requested terms are decoded. Any non-empty name
    is legal (``nn.ModuleDict`` refuses dots and names of attributes).

    Attributes:
        encoded: Indices of the modalities that are encoded (E of M).
        columns: For each modality, its columns of w.
        owner: [W], the modality that each column of w belongs to.
        weights: The M likelihood weights s_m.
        max_rows: Decode at most this many rows at a time, and recompute them in the backward pass; None:
            all at once.
        dense: Encode and decode all rows, and remove those that do not count afterwards. Results are the
            same, and shapes do not depend on what was observed, as ``torch.func.vmap`` and compilers need.
    """

    owner: Tensor
    encoded_rows: Tensor
    _expert_of: Tensor

    def __init__(self, nets: Mapping[str, ModalityNet]) -> None:
        super().__init__()
        self._names = tuple(nets)
        self.nets = nn.ModuleList(nets.values())
        self.max_rows: int | None = None
        self.dense = False
        sizes = [net.private for net in nets.values()]
        self.encoded = [m for m, net in enumerate(nets.values()) if net.encoder is not None]
        self.columns = [slice(sum(sizes[:m]), sum(sizes[: m + 1])) for m in range(len(sizes))]
        # Python numbers, not a buffer: a float32 buffer would stay rounded in a float64 model.
        self.weights = tuple(float(net.spec.weight) for net in nets.values())
        owner = [m for m, size in enumerate(sizes) for _ in range(size)]
        position = {m: e for e, m in enumerate(self.encoded)}
        self.register_buffer("owner", torch.tensor(owner, dtype=torch.long), persistent=False)
        expert_of = torch.tensor([position.get(m, -1) for m in owner], dtype=torch.long)
        self.register_buffer("_expert_of", expert_of, persistent=False)
        encoded_rows = torch.tensor(self.encoded, dtype=torch.long)
        self.register_buffer("encoded_rows", encoded_rows, persistent=False)

    # ---- a mapping -----------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> ModalityNet:
        if name not in self._names:
            raise KeyError(f"modality {name!r} is not in the model; {nearest(name, self._names)}")
        return self.at(self._names.index(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __hash__(self) -> int:  # Mapping compares by value and so removes the hash of nn.Module
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def at(self, m: int) -> ModalityNet:
        """The networks of modality number m."""
        net = self.nets[m]
        assert isinstance(net, ModalityNet)
        return net

    # ---- covariates ----------------------------------------------------------------------------------------

    @property
    def conditioned(self) -> bool:
        """Whether any modality declares covariates."""
        return any(net.covariates for net in self.values())

    def covariates(self, m: int, batch: Batch | None, like: Tensor, rows: int = 1) -> Tensor | None:
        """The columns of the covariates of modality number m, [B, C]; None where it declares none.

        Args:
            m: The number of the modality.
            batch: Samples that were admitted. None: ``rows`` samples at the first level of each covariate, and at the mean.
            like: A tensor of the dtype and device of the result.
            rows: The number of samples without a batch.
        """
        declared = self.at(m).covariates
        if not declared:
            return None
        if batch is None:
            return conditioning.reference(declared, rows, like)
        found, name = conditioning.columns(declared, batch.covariates, like.dtype), self._names[m]
        return found[batch.covariates.rows[name]] if name in batch.covariates.rows else found

    # ---- encode --------------------------------------------------------------------------------------------

    def encode(self, batch: Batch) -> Experts:
        """One encoder call per encoded modality, on the samples in which it was observed."""
        family, like = self.at(0).family, next(iter(batch.data.values()))
        rows = self.observed(batch)
        z: list[Diagonal] = []
        w = [family.unit((batch.size, net.private), like) for net in self.values()]
        for m in self.encoded:
            name, net = self._names[m], self.at(m)
            x, entries = batch.data[name], batch.entries.get(name)
            given = self.covariates(m, batch, x)
            if batch.complete or self.dense:
                encoded = net.encode(x, entries, given)
                row = batch.mask[m][:, None]
                z.append(
                    encoded.z if batch.complete else encoded.z.where(row, family.unit((), encoded.z.loc))
                )
                w[m] = encoded.w if batch.complete else encoded.w.where(row, family.unit((), encoded.w.loc))
                continue
            index, counted = self.observed_rows(rows[m], like.device)
            expert = family.unit((batch.size, net.seen), like)
            if len(index):
                assert net.encoder is not None
                with fewest_rows(net.encoder, len(index), counted):
                    encoded = net.encode(
                        x.index_select(0, index),
                        *(None if each is None else each.index_select(0, index) for each in (entries, given)),
                    )
                expert = _placed(expert, index, encoded.z, counted)
                w[m] = _placed(w[m], index, encoded.w, counted)
            z.append(expert)
        observed = batch.mask.index_select(0, self.encoded_rows)
        return Experts(
            family.stack(z), family.cat(w), observed, None if rows is batch.mask else rows[self.encoded]
        )

    def observed(self, batch: Batch) -> Tensor:
        """The mask from which rows and tables of subsets are made, [M, B]: on the host, unless ``dense``.

        The device is waited for only where the host does not know the mask.
        """
        if self.dense or batch.device.type == "cpu":
            return batch.mask
        if batch.complete:
            return torch.ones(batch.mask.shape, dtype=torch.bool)
        return batch.mask.cpu() if batch.on_host is None else batch.on_host.mask

    def encode_with(
        self, part: str, batch: Batch, rows: Tensor | slice, counted: bool = True
    ) -> list[Tensor]:
        """The outputs of a second encoder for the selected samples: E tensors [rows, ...].

        Args:
            part: The name of the second encoder among the ``parts`` of each encoded modality.
            batch: The data.
            rows: The samples to encode.
            counted: Whether these samples count (``observed_rows``).
        """
        return [self.encode_part(m, part, batch, rows, counted) for m in self.encoded]

    def encode_part(
        self, m: int, part: str, batch: Batch, rows: Tensor | slice, counted: bool = True
    ) -> Tensor:
        """The output of a second encoder of modality number m for the selected samples: [rows, ...]."""
        net, x = self.at(m), batch.data[self._names[m]][rows]
        given = batch.entries.get(self._names[m])
        entries = None if given is None else given[rows]
        beside = self.covariates(m, batch, x)
        with fewest_rows(net.parts[part], len(x), counted):
            output: Tensor = net.parts[part](
                net.encoder_input(net.features(x, entries), entries, None if beside is None else beside[rows])
            )
        return output

    def encode_features(self, name: str, features: Tensor) -> Encoded:
        """The experts of one modality given its features, [B, *shape], such as pseudo-inputs.

        Covariates are at their first level and their mean.
        """
        given = self.covariates(self._names.index(name), None, features, len(features))
        return self[name].encode_features(features, None, given)

    @torch.no_grad()
    def centre(self, batches: Iterable[Batch]) -> None:
        """Set the centres of the modalities that declare missing entries, unless they were set before.

        Args:
            batches: The training data.
        """
        centres = {
            name: net.centre for name, net in self.items() if net.centre is not None and not net.centre.any()
        }
        if not centres:
            return
        sums = {
            name: centre.new_zeros((2, *centre.shape), dtype=torch.float64)
            for name, centre in centres.items()
        }
        for batch in batches:
            for name in centres:
                row = batch.mask[list(batch.data).index(name)]
                x, entries = batch.data[name][row], batch.entries.get(name)
                observed = torch.ones_like(x, dtype=torch.bool) if entries is None else entries[row]
                features = torch.where(observed, self[name].likelihood.features(x), 0)
                sums[name] += torch.stack([features.double().sum(0), observed.double().sum(0)])
        for name, centre in centres.items():
            total, count = sums[name]
            centre.copy_(total / count.clamp(min=1))

    def encode_mean(self, name: str, z: Tensor, w: Tensor, batch: Batch, rows: Tensor) -> Encoded:
        """Decode one modality and encode its mean: z [N, D], w [N, W_m] -> experts of N rows.

        Args:
            name: The modality.
            z: Shared latents.
            w: Private latents of the modality.
            batch: Samples whose covariates both are conditioned on.
            rows: [N], the samples of these.
        """
        net, given = self[name], self.covariates(self._names.index(name), batch, z)
        given = None if given is None else given[rows]
        parts = [z, w] if given is None else [z, w, given]
        return net.encode(net.mean(torch.cat(parts, -1)), None, given)

    # ---- decode --------------------------------------------------------------------------------------------

    def latents(
        self, m: int, z: Tensor, w: Tensor, batch: Batch | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """The input of the decoder of modality m: the columns of z that it sees, w_m, and its covariates.

        Args:
            m: The number of the modality.
            z: [..., B, D].
            w: [..., B, W].
            batch: Samples whose covariates are conditioned on; None: their first levels and means.
            rows: [B], the samples of ``batch``; None: the samples in order.
        """
        parts = [z[..., : self.at(m).seen], w[..., self.columns[m]]]
        given = self.covariates(m, batch, z)
        if given is not None:
            given = given if rows is None else given.index_select(0, rows)
            parts.append(given[0] if z.ndim == 1 else given.expand(*z.shape[:-1], -1))
        return torch.cat(parts, -1)

    def decode(
        self,
        z: Tensor,
        w: Tensor,
        sample: bool = False,
        like: Batch | None = None,
        targets: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Latents [..., D], [..., W] -> name -> [..., *shape], for every modality that is decoded.

        Args:
            z: The shared latents.
            w: The private latents.
            sample: Draw from the likelihood instead of taking its mean.
            like: Samples whose covariates are conditioned on, and whose library sizes generated counts have, where they were
                observed. None: the first levels and means of covariates, and, as elsewhere, the likelihood's own library size.
            targets: The modalities to decode; None: all that have a decoder.

        Raises:
            InputError: A target without a decoder.
        """
        return {name: self.decode_one(name, z, w, sample, like) for name in self.targets(targets)}

    def targets(self, names: Sequence[str] | None) -> list[str]:
        """These modalities in the order of the model; None: all that are decoded.

        Raises:
            InputError: One of them has no decoder, or is not in the model.
        """
        decoded = [name for name in self._names if self[name].decoder is not None]
        for name in names or ():
            if name not in decoded:
                raise InputError(
                    f"decode: got target {name!r}, which is not decoded; {nearest(name, decoded)}"
                )
        return [name for name in decoded if names is None or name in names]

    def decode_one(
        self, name: str, z: Tensor, w: Tensor, sample: bool = False, like: Batch | None = None
    ) -> Tensor:
        """The mean of one modality, or a draw from its likelihood: [..., D], [..., W] -> [..., *shape]."""
        net, latents = self[name], self.latents(self._names.index(name), z, w, like)
        out = self._by_rows(net, latents)
        if like is None or name not in like.data:
            return net.generated(out, sample)
        x = like.data[name]
        observed = like.mask[like.names.index(name)].view(-1, *[1] * (x.ndim - 1)).expand_as(x)
        return net.generated(out, sample, x, observed & like.entries.get(name, observed))

    def _by_rows(self, net: ModalityNet, latents: Tensor) -> Tensor:
        """The decoder's output, [..., C] -> [..., *output], some rows at a time, so that what networks compute in between stays small."""
        step, rows = min(self.max_rows or _ROWS, _ROWS), latents.shape[:-1].numel()
        whole = torch.is_grad_enabled() or self.dense or rows <= step
        if whole or net.decoder is None or not rows_apart(net.decoder):
            return net.decode(latents)
        flat = latents.reshape(rows, -1)
        first = net.decode(flat[:step])
        out = first.new_empty(rows, *first.shape[1:])
        out[:step] = first
        for start in range(step, rows, step):
            out[start : start + step] = net.decode(flat[start : start + step])
        return out.view(*latents.shape[:-1], *first.shape[1:])

    def log_likelihood(
        self,
        batch: Batch,
        z: Tensor,
        w: Tensor,
        decoded: Tensor | None = None,
        rows: Tensor | None = None,
        importance: bool = False,
        constant_z: Tensor | None = None,
    ) -> Tensor:
        """log p(x_m | z, w_m) in nats, unweighted, by one decoder call per modality.

        Args:
            batch: The data.
            z: [..., B, D].
            w: [..., B, W].
            decoded: [M, ..., B] bool, the terms to compute; None: all. Terms that were not observed are
                never computed. No device is waited for if these are on the host.
            rows: [M, B'], the samples of ``batch`` that the last axis of the latents refers to; None:
                the samples in order. They may be on the host.
            importance: The gradients of these terms will be weights that are normalised over the first
                axis, K. If few of the weights are not negligible, only their rows are part of the
                backward pass (``core.recompute``).
            constant_z: [M, V, B] bool, the terms without a gradient in z; None: none.

        Returns:
            [M, ..., B], 0 for terms that were not computed.
        """
        lead = z.shape[:-1]
        if decoded is not None and not (self.dense and self.max_rows is None):
            decoded = decoded.cpu()  # one wait for all modalities, unless these are on the host
        selective: frozenset[str] = frozenset()
        if importance and rows is None:
            selective = plan(self, self._weighted, batch, z, w, decoded)
        counted = self._counted(batch, decoded, rows, lead, bool(selective))
        rows = None if rows is None else to_device(rows, z.device)
        terms = []
        for m, (name, net) in enumerate(self.items()):
            if net.decoder is None:
                terms.append(z.new_zeros(lead))
                continue
            decoding = Decoding(
                net, batch.data[name], batch.entries.get(name), self.max_rows, name in selective
            )
            seen = z if constant_z is None else torch.where(constant_z[m][..., None], z.detach(), z)
            terms.append(
                self._term(
                    decoding,
                    self.latents(m, seen, w, batch, None if rows is None else rows[m]),
                    None if counted is None else counted[m].expand(lead),
                    None if rows is None else rows[m],
                )
            )
        return torch.stack(terms)

    def _counted(
        self,
        batch: Batch,
        decoded: Tensor | None,
        rows: Tensor | None,
        lead: torch.Size,
        selective: bool,
    ) -> list[Tensor] | None:
        """The terms to compute of each modality, which broadcast against [..., B], on the host unless all rows are decoded; None: all."""
        if batch.complete and decoded is None:
            return None
        here = self.dense and self.max_rows is None and not selective
        if decoded is not None:
            each = decoded.shape[1:] if decoded.ndim > len(lead) else decoded.shape
            decoded = decoded.expand(len(self), *each)
        if decoded is not None and batch.complete:
            counted = list(decoded)
        else:
            on_host = not here and (decoded is None or decoded.device.type == "cpu")
            mask = self.observed(batch) if on_host else batch.mask
            place = {name: m for m, name in enumerate(batch.data)}
            counted = [mask[place[name]] for name in self]
            if rows is not None:
                rows = rows.to(mask.device)
                counted = [row[index] for row, index in zip(counted, rows, strict=True)]
            if decoded is not None:
                counted = [row & some for row, some in zip(counted, decoded, strict=True)]
        if here or counted[0].device.type == "cpu":
            return counted
        return list(torch.stack(counted).cpu())

    def _weighted(self, batch: Batch, z: Tensor, w: Tensor, decoded: Tensor | None) -> Tensor:
        return self.weigh(self.log_likelihood(batch, z, w, decoded)).sum(0)

    def _term(
        self, decoding: Decoding, latents: Tensor, counted: Tensor | None, rows: Tensor | None
    ) -> Tensor:
        """log p(x | latents) where ``counted`` [..., B], 0 elsewhere: latents [..., B, C] -> [..., B]."""
        if counted is None and decoding.direct:
            return decoding.all(latents, rows)
        if self.dense and counted is not None and decoding.direct:
            return torch.where(counted, decoding.all(latents, rows), 0)
        lead = latents.shape[:-1]
        total = latents.new_zeros(lead.numel())
        if counted is None:
            index, valid = torch.arange(lead.numel(), device=latents.device), True
        else:
            index, valid = self.observed_rows(counted.flatten(), latents.device)
        if len(index):
            column = index % lead[-1]
            assert decoding.net.decoder is not None
            with fewest_rows(decoding.net.decoder, len(index), bool(valid)):
                each = decoding(
                    latents.flatten(0, -2).index_select(0, index),
                    column if rows is None else rows.index_select(0, column),
                )
            total = placed(total, index, each, valid)
        return total.view(lead)

    # ---- subsets and weights -------------------------------------------------------------------------------

    def own(self, membership: Tensor) -> Tensor:
        """The private columns of the members of each component: [V, E, B] -> [V, B, W] bool."""
        none = torch.zeros_like(membership[:, :1])
        return torch.cat([membership, none], 1)[:, self._expert_of].transpose(1, 2)

    def members(self, membership: Tensor) -> Tensor:
        """Each component decodes its members and every target: [V, E, B] -> [M, 1, V, B] bool."""
        return self.by_modality(membership, membership.any(1))[:, None]

    def by_modality(self, membership: Tensor, others: Tensor) -> Tensor:
        """The components that each modality is a member of: [V, E, B] -> [M, V, B] bool; ``others`` [V, B] for targets."""
        rows = [
            membership[:, self.encoded.index(m)] if m in self.encoded else others for m in range(len(self))
        ]
        return torch.stack(rows)

    def weigh(self, log_x: Tensor) -> Tensor:
        """s_m log p(x_m | ·): [M, ...] -> [M, ...]."""
        if all(weight == 1 for weight in self.weights):
            return log_x
        return torch.stack([weight * term for weight, term in zip(self.weights, log_x, strict=True)])

    def by_owner(self, columns: Tensor) -> Tensor:
        """Sums of private columns by modality: [..., W] -> [M, ...]."""
        return torch.stack([columns[..., span].sum(-1) for span in self.columns])

    def observed_rows(self, counted: Tensor, device: torch.device) -> tuple[Tensor, bool]:
        """The indices, on ``device``, at which ``counted`` [N] is True, and whether these rows count.

        No device is waited for if ``counted`` is on the host.

        In training, a modality without such a row gets one row that does not count, because distributed
        training waits for a gradient of every parameter.
        """
        index = counted.nonzero()[:, 0]
        if self.training and not len(index):
            return torch.zeros(1, dtype=torch.long, device=device), False
        return to_device(index, device), True


def placed(base: Tensor, index: Tensor, rows: Tensor, counted: bool) -> Tensor:
    """``base`` with ``rows`` at ``index``.

    If the rows do not count, ``base`` is unchanged and the rows get a gradient of zero.
    """
    if not counted:
        never = torch.zeros((), dtype=torch.bool, device=rows.device)
        rows = torch.where(never, rows, base.index_select(0, index))
    return base.index_copy(0, index, rows)


def _placed(base: Diagonal, index: Tensor, rows: Diagonal, counted: bool) -> Diagonal:
    return type(base)(
        placed(base.loc, index, rows.loc, counted), placed(base.scale, index, rows.scale, counted)
    )
