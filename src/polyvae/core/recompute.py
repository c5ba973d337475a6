"""How a decoder runs over many rows: at once, in chunks, or with selective recomputation.

Chunks bound the memory: each chunk is recomputed in the backward pass. Selective recomputation saves
time. The gradient of an importance-weighted bound is an average over K draws with normalised weights.
For data of many dimensions one of the K draws has nearly all of the weight. A graph of the other draws
would be stored and traversed backwards only to be multiplied by zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from polyvae.core.batch import Batch
from polyvae.core.modality import ModalityNet

Run = Callable[[Tensor, Tensor], Tensor]

_FEWEST_DRAWS = 3  # of two draws, at most one could be left out
_LOOK = 16  # the weights are estimated from one sample in 16
_PAYS_BELOW = 0.5  # share of the weights above which gathering rows costs more than it saves

# Modules of torch whose output in training depends on the whole batch or is random.
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
    """The log-likelihood of one modality for many rows of latents.

    Args:
        net: The networks of the modality.
        x: Its data, [B, *shape].
        entries: [B, *shape] bool, the observed entries; None: all.
        max_rows: Decode at most this many rows at a time; None: all.
        selective: Decode without a graph. The backward pass decodes those rows again whose gradient is
            not negligible.
    """

    def __init__(
        self, net: ModalityNet, x: Tensor, entries: Tensor | None, max_rows: int | None, selective: bool
    ) -> None:
        self.net, self.x, self.entries, self.max_rows, self.selective = net, x, entries, max_rows, selective

    @property
    def direct(self) -> bool:
        """Whether all rows can be decoded in one plain call."""
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
    nets: Mapping[str, ModalityNet],
    log_likelihood: Callable[[Batch, Tensor, Tensor, Tensor | None], Tensor],
    batch: Batch,
    z: Tensor,
    w: Tensor,
    decoded: Tensor | None,
) -> frozenset[str]:
    """The modalities to decode selectively, as a set of names.

    These are all modalities that permit it, if less than half of the weights over K, of draws z
    [K, ..., B, D], will be above rounding error. The weights are estimated from the likelihoods of one
    sixteenth of the batch; the densities of the latents are small in comparison. A wrong estimate costs
    time and changes no result.

    Args:
        nets: The networks of all modalities.
        log_likelihood: (batch, z, w, decoded) -> Σ_m s_m log p(x_m | z, w_m), [K, ..., B].
        batch: The data.
        z: [K, ..., B, D].
        w: [K, ..., B, W].
        decoded: The terms that are computed; None: all.
    """
    rows, some = z.shape[:-1].numel(), slice(0, (batch.size + _LOOK // 2) // _LOOK)
    names = frozenset(
        name
        for name, net in nets.items()
        if _pays(net, rows, batch.size, name in batch.entries) and not batch.data[name].requires_grad
    )
    if not names or len(z) < _FEWEST_DRAWS or not some.stop or not torch.is_grad_enabled():
        return frozenset()
    with _graphless(z):
        log_weight = log_likelihood(
            batch.rows(some),
            z.detach()[..., some, :],
            w.detach()[..., some, :],
            None if decoded is None else decoded[..., some],
        )
    return names if share_that_counts(log_weight) < _PAYS_BELOW else frozenset()


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
    """The share of log-weights [K, ...] whose gradient is not negligible.

    Only samples whose log-weights differ are included.
    """
    differ = (log_weight != log_weight[:1]).any(0)
    counted = (log_weight.softmax(0) > torch.finfo(log_weight.dtype).eps) & differ
    return float(counted.sum().double() / (differ.sum() * len(log_weight)))


def rows_apart(network: nn.Module) -> bool:
    """Whether each output row of a network depends only on its input row and is the same at every call.

    This is true of the networks of this library and of combinations of torch modules, except for batch
    statistics, dropout and forward pre-hooks. A user-defined class declares it by ``rows_apart = True``.
    It thereby also declares that it has no learnt tensors other than its own parameters. Its submodules
    are checked as well.
    """
    known = (
        type(network).__module__.startswith(("torch.nn.modules.", "polyvae."))
        or vars(type(network)).get("rows_apart") is True
    )
    hooked = bool(
        network._forward_pre_hooks
    )  # such as the old spectral norm, which changes the weights at every call
    dependent = network.training and isinstance(network, _DEPEND_ON_THE_BATCH)
    return known and not hooked and not dependent and all(map(rows_apart, network.children()))


def _pays(net: ModalityNet, rows: int, samples: int, entries: bool) -> bool:
    """Whether selective decoding of ``rows`` latents of ``samples`` samples can save time.

    It can if the rows are independent and each row has its own share of the cost.
    """
    if net.decoder is None or not rows_apart(net.decoder):
        return False
    linear = net.last_layer(entries)
    return linear is None or not linear[1].needs_no_output(linear[0], rows, samples)


@contextmanager
def _graphless(like: Tensor) -> Iterator[None]:
    """Disable gradients and the weight cache of autocast.

    Weights that autocast casts here have no graph. The cache would reuse them where a graph is needed.
    """
    with torch.no_grad(), _autocast(like.device.type):
        yield


def _autocast(device: str) -> torch.autocast:
    return torch.autocast(
        device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), cache_enabled=False
    )


class _Selective(torch.autograd.Function):
    """``run(latents, rows)`` without a graph. The backward pass recomputes rows with a relevant gradient.

    Let g_n be the gradient of row n. Rows with N |g_n| ≤ ε Σ|g| are left out: together they are less
    than one rounding error of the sum. If the sum is not finite, no row is left out. Second derivatives
    are not supported.
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
        # If the total is infinite, every finite gradient is negligible in comparison, so all are kept.
        relevant = (len(size) * size > torch.finfo(size.dtype).eps * total) | ~total.isfinite()
        index = relevant.nonzero()[:, 0]
        to_latents = torch.zeros_like(latents)
        to_parameters = [torch.zeros_like(parameter) for parameter in parameters]
        for chunk in torch.split(index, ctx.max_rows or len(index)) if len(index) else ():
            some = latents.index_select(0, chunk).requires_grad_()
            with torch.enable_grad(), ctx.autocast:
                value = ctx.run(some, rows.index_select(0, chunk))
            first, *others = torch.autograd.grad(
                value, [some, *parameters], each.index_select(0, chunk), materialize_grads=True
            )
            to_latents.index_copy_(0, chunk, first)
            for total_gradient, gradient in zip(to_parameters, others, strict=True):
                total_gradient += gradient
        return None, None, to_latents, None, *to_parameters
