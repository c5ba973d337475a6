"""How the decoder of a modality is run over many rows: at once, in chunks, or without a graph and in part again.

Chunks bound the memory: each is recomputed in the backward pass. Selective recomputation saves time: the gradient of an
importance-weighted bound is an average over K draws with their normalised weights, and where data have many dimensions one draw in K takes
nearly all of it. A graph of the others would be kept, and gone through backwards, for products with zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from polyvae.core.batch import Batch
from polyvae.core.modality import ModalityNet

if TYPE_CHECKING:
    from polyvae.core.modalities import Modalities

Run = Callable[[Tensor, Tensor], Tensor]

_FEWEST_DRAWS = 3  # with two, a draw in K can save at most half
_LOOK = 16  # a first look decodes one sample in so many
_PAYS_BELOW = 0.5  # of the weights; above it, gathering rows costs more than it saves

# Modules of torch that look at the batch, or draw, in training.
_DEPEND_ON_THE_BATCH = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.RNNBase,
    nn.RReLU,
    nn.MultiheadAttention,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)


class Decoding:
    """One modality's log-likelihood of many rows of latents.

    Args:
        net: The modality's networks.
        x: Its data, [B, *shape].
        entries: [B, *shape] bool, the observed entries; None: all.
        max_rows: Decode at most so many rows at a time; None: all.
        selective: Decode without a graph, and again, with one, the rows whose gradient counts.
    """

    def __init__(
        self, net: ModalityNet, x: Tensor, entries: Tensor | None, max_rows: int | None, selective: bool
    ) -> None:
        self.net, self.x, self.entries, self.max_rows, self.selective = net, x, entries, max_rows, selective

    @property
    def direct(self) -> bool:
        """Whether all rows can be decoded in one call, as they are."""
        return self.max_rows is None and not self.selective

    def all(self, latents: Tensor, rows: Tensor | None) -> Tensor:
        """log p(x | latents) of every row: [..., B, C] -> [..., B]."""
        return self.net.log_prob(self.x, latents, self.entries, rows)

    def __call__(self, latents: Tensor, rows: Tensor) -> Tensor:
        """log p(x[rows] | latents): [N, C], [N] -> [N]."""
        if self.selective:
            assert self.net.decoder is not None
            learnt = [*self.net.decoder.parameters(), *self.net.likelihood.parameters()]
            return run_selectively(self.all, latents, rows, learnt, self.max_rows)
        if self.max_rows is None or len(latents) <= self.max_rows:
            return self.all(latents, rows)
        chunks = zip(torch.split(latents, self.max_rows), torch.split(rows, self.max_rows), strict=True)
        if not torch.is_grad_enabled():
            return torch.cat([self.all(*chunk) for chunk in chunks])
        return torch.cat([checkpoint(self.all, *chunk, use_reentrant=False) for chunk in chunks])


def plan(
    modalities: Modalities, batch: Batch, z: Tensor, w: Tensor, decoded: Tensor | None
) -> frozenset[str]:
    """The modalities to decode selectively: all that can be, where under half of the weights over K, z [K, ..., B, D], will count.

    The likelihoods of a sixteenth of the batch are looked at; the densities of the latents are small beside them. A wrong answer costs
    time, and nothing else.
    """
    rows, some = z.shape[:-1].numel(), slice(0, (batch.size + _LOOK // 2) // _LOOK)
    names = frozenset(
        name
        for name, net in modalities.items()
        if _pays(net, rows, batch.size, name in batch.entries) and not batch.data[name].requires_grad
    )
    if not names or len(z) < _FEWEST_DRAWS or not some.stop or not torch.is_grad_enabled():
        return frozenset()
    with _graphless(z):
        log_x = modalities.log_likelihood(
            batch.rows(some),
            z.detach()[..., some, :],
            w.detach()[..., some, :],
            None if decoded is None else decoded[..., some],
        )
    return names if share_that_counts(modalities.weigh(log_x).sum(0)) < _PAYS_BELOW else frozenset()


def run_selectively(
    run: Run, latents: Tensor, rows: Tensor, parameters: Iterable[nn.Parameter], max_rows: int | None = None
) -> Tensor:
    """``run(latents, rows)``, [N, C], [N] -> [N], with its gradient in ``latents`` and ``parameters`` and no graph kept.

    The backward pass runs again the rows whose gradient counts. ``run`` must return the same for a row whatever the other rows are, and
    at every call (``rows_apart``).
    """
    learnt = [parameter for parameter in parameters if parameter.requires_grad]
    found: Tensor = _Selective.apply(run, max_rows, latents, rows, *learnt)  # type: ignore[no-untyped-call]
    return found


def share_that_counts(log_weight: Tensor) -> float:
    """The share of log-weights [K, ...] that a gradient would flow to, among the samples in which they differ at all."""
    differ = (log_weight != log_weight[:1]).any(0)
    return float((log_weight.softmax(0) > torch.finfo(log_weight.dtype).eps)[:, differ].double().mean())


def rows_apart(network: nn.Module) -> bool:
    """Whether the output of a network for a row is known to depend on that row alone, and to be the same at every call.

    This holds for the networks of this library and for what torch's modules make up, except for batch statistics, dropout and whatever a
    hook does before them. A user-defined class declares it by ``rows_apart = True``, and with it that it learns by its own parameters
    alone; its submodules are checked, too.
    """
    known = (
        type(network).__module__.startswith(("torch.nn.modules.", "polyvae."))
        or vars(type(network)).get("rows_apart") is True
    )
    hooked = bool(network._forward_pre_hooks)  # the old spectral norm: other weights at every call
    dependent = network.training and isinstance(network, _DEPEND_ON_THE_BATCH)
    return known and not hooked and not dependent and all(map(rows_apart, network.children()))


def _pays(net: ModalityNet, rows: int, samples: int, entries: bool) -> bool:
    """Whether selective decoding of ``rows`` latents of ``samples`` samples can pay: rows are apart, and each has its share of the cost."""
    if net.decoder is None or not rows_apart(net.decoder):
        return False
    linear = net.last_layer(entries)
    return linear is None or not linear[1].needs_no_output(linear[0], rows, samples)


@contextmanager
def _graphless(like: Tensor) -> Iterator[None]:
    """No graph is made, and autocast caches no weights: what it casts here has no graph and would be reused where one is needed."""
    with torch.no_grad(), _autocast(like.device.type):
        yield


def _autocast(device: str) -> torch.autocast:
    return torch.autocast(
        device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), cache_enabled=False
    )


class _Selective(torch.autograd.Function):
    """``run(latents, rows)`` without a graph; the backward pass runs again the rows whose gradient g_n counts.

    Rows that are left out, N |g_n| ≤ ε Σ|g|, add up to less than one rounding of the sum of all. Where that sum is not finite, none is
    left out. There are no second derivatives.
    """

    @staticmethod
    def forward(
        ctx: Any, run: Run, max_rows: int | None, latents: Tensor, rows: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.run, ctx.max_rows, ctx.autocast = run, max_rows, _autocast(latents.device.type)
        ctx.save_for_backward(latents, rows, *parameters)
        size = max_rows or max(1, len(latents))
        with _graphless(latents):
            chunks = zip(torch.split(latents.detach(), size), torch.split(rows, size), strict=True)
            return torch.cat([run(*chunk) for chunk in chunks])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, each: Tensor) -> tuple[Tensor | None, ...]:
        latents, rows, *parameters = ctx.saved_tensors
        size = each.abs()
        total = size.sum()
        # Beside an infinite gradient every other one looks small.
        counts = (len(size) * size > torch.finfo(size.dtype).eps * total) | ~total.isfinite()
        index = counts.nonzero()[:, 0]
        to_latents = torch.zeros_like(latents)
        to_parameters = [torch.zeros_like(parameter) for parameter in parameters]
        for chunk in torch.split(index, ctx.max_rows or len(index)) if len(index) else ():
            some = latents.index_select(0, chunk).requires_grad_()
            with torch.enable_grad(), ctx.autocast:
                found = ctx.run(some, rows.index_select(0, chunk))
            first, *others = torch.autograd.grad(
                found, [some, *parameters], each.index_select(0, chunk), materialize_grads=True
            )
            to_latents.index_copy_(0, chunk, first)
            for so_far, one in zip(to_parameters, others, strict=True):
                so_far += one
        return None, None, to_latents, None, *to_parameters
