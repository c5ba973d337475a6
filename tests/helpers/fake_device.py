"""A device beside the CPU, made up for tests: "fakegpu".

Its tensors compute on the CPU, with the same bits. They refuse tensors of the CPU as a GPU's tensors do, and the waits of the host for
this device are counted: reads of a value (``item``, ``bool``, ``tolist``, ``cpu``), results whose shape depends on values (``nonzero``,
boolean indices, ``unique``), and copies to the device that are not ``non_blocking``. Example:

    with waits() as found:
        torch.ones(2).to(DEVICE).sum().item()
    assert [wait.what for wait in found] == ["copy to the device", "_local_scalar_dense"]
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import polyvae

NAME = "fakegpu"
PACKAGE = str(Path(polyvae.__file__).parent)
DEVICE = f"{NAME}:0"

_READS = {
    "_linalg_check_errors",
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "bincount",
    "equal",
    "histogram",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "unique_dim_consecutive",
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_COPIES = {"copy_", "_to_copy"}
_FROM_LISTS = (torch.tensor, torch.as_tensor, torch.asarray)
_KEY = "AutocastPrivateUse1"

# As torch's autocast of the CPU.
_LOWER = [
    *("addbmm", "addmm", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d"),
    *("conv_transpose2d.input", "conv_transpose3d.input", "linear", "matmul", "mm", "prelu"),
    "scaled_dot_product_attention",
]
_FULL = ["binary_cross_entropy", "cdist", "mse_loss", "prod", "prod.dim_int", "smooth_l1_loss", "huber_loss"]
_WIDEST = ["cat", "index_copy", "stack"]

# Otherwise composed of operations that change the size of their output in place.
_FACTORIES = [
    *("arange", "arange.start", "arange.start_step", "eye", "eye.m", "full", "linspace", "ones", "rand"),
    *(
        "randint",
        "randint.low",
        "randn",
        "randperm",
        "scalar_tensor",
        "tril_indices",
        "triu_indices",
        "zeros",
    ),
]


class Wait(NamedTuple):
    """A wait of the host for the device: the operation, and the innermost line of polyvae that caused it."""

    what: str
    where: str


_found: list[list[Wait]] = []


@contextmanager
def waits() -> Iterator[list[Wait]]:
    """Inside, the device can be used. Yields a list of the waits in the context, filled during the context."""
    install()
    found: list[Wait] = []
    _found.append(found)
    try:
        with _FromLists():
            yield found
    finally:
        _found[:] = [other for other in _found if other is not found]


class FakeTensor(Tensor):
    """A tensor on the made-up device; ``inner`` is the tensor of the CPU that has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> FakeTensor:
        made: FakeTensor = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=torch.device(DEVICE)
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"{self.inner!r} on {DEVICE}"

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.ndim == 0 else repr(self), spec)

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        return super().__getitem__(tuple(torch.tensor(x) if isinstance(x, list) else x for x in parts))

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": self.device, **options})

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy; use Tensor.cpu() first")

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied


def _run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """An operation of which an argument or the result is on the device."""
    name = func.overloadpacket.__name__
    tensors = list(_tensors((*args, *kwargs.values())))
    device = kwargs.get("device")
    here = any(isinstance(x, FakeTensor) for x in tensors)
    result = here if device is None else torch.device(device).type == NAME
    if kwargs.get("generator") is not None and result:
        kind = kwargs["generator"].device.type
        raise RuntimeError(f"expected a {NAME!r} device type for generator but found {kind!r}")
    if here:
        _check(name, args, tensors)
    if _found:
        _count(name, args, kwargs, result)
    inner = {key: _inner(value) for key, value in kwargs.items()}
    inner |= {"device": torch.device("cpu")} if device is not None else {}
    inner |= {"non_blocking": False} if kwargs.get("non_blocking") else {}
    out = func(*_inner(args), **inner)
    if name == "_to_copy" and not result:
        return out
    places, same = _written(func)
    if not places:
        return _wrapped(out) if result else out
    given = dict(zip(same, args, strict=False)) | dict(kwargs)
    written = [given[key] for key in places if key in given]
    if any(isinstance(x, FakeTensor) and x.shape != x.inner.shape for x in written):
        raise NotImplementedError(f"{NAME}: {func} changes the size of a tensor in place")
    returns = func._schema.returns
    if len(returns) == len(written) and all(map(_writes, returns)):
        return written[0] if len(written) == 1 else tuple(written)
    return _wrapped(out) if result else out


@cache
def _written(func: Any) -> tuple[list[str], list[str]]:
    """The names of the arguments that an operation writes to, and of all its arguments."""
    arguments = func._schema.arguments
    return [spec.name for spec in arguments if _writes(spec)], [spec.name for spec in arguments]


def _writes(spec: Any) -> bool:
    return spec.alias_info is not None and spec.alias_info.is_write


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _inner(value: Any) -> Any:
    if isinstance(value, FakeTensor):
        return value.inner
    return type(value)(map(_inner, value)) if isinstance(value, list | tuple) else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return FakeTensor(value)
    return type(value)(map(_wrapped, value)) if isinstance(value, list | tuple) else value


def _check(name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """Raises RuntimeError, as for a GPU, where devices are mixed."""
    if name in _COPIES or name == "_pack_padded_sequence":
        return
    if name in _INDEXING and isinstance(args[0], FakeTensor):
        tensors = [] if name == "index" else [args[0], args[2]]  # indices may be on the host
    if any(not isinstance(x, FakeTensor) and x.ndim for x in tensors):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and cpu! ({name})"
        )


def _count(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: bool) -> None:
    what = name if name in _READS else ""
    if name in _COPIES:
        source, flag = (args[1], args[2:3]) if name == "copy_" else (args[0], ())
        target = isinstance(args[0], FakeTensor) if name == "copy_" else result
        blocking = not (kwargs.get("non_blocking") or any(flag))
        if isinstance(source, FakeTensor) and not target:
            what = "copy to the host"
        # A number that is written into a tensor is an argument of the operation.
        elif not isinstance(source, FakeTensor) and target and blocking and (name != "copy_" or source.ndim):
            what = "copy to the device"
    if name in _INDEXING:
        index = [x for x in args[1] if x is not None]
        masks = any(x.dtype in (torch.bool, torch.uint8) for x in index)
        filled = name != "index" and masks and len(index) == 1 and args[2].ndim == 0
        if any(not isinstance(x, FakeTensor) and x.ndim for x in index):
            what = f"{name} by a tensor of the host"
        elif masks and not filled:
            what = f"{name} by a mask"
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        what = name
    if what:
        for found in _found:
            found.append(Wait(what, _where()))


def _where() -> str:
    """The innermost line of the package."""
    for frame, line in traceback.walk_stack(None):
        name = frame.f_code.co_filename
        if f"{PACKAGE}/" in name:
            return f"{name.split(f'{PACKAGE}/')[-1]}:{line}"
    return ""


class _FromLists(TorchFunctionMode):
    """``torch.tensor(list, device=DEVICE)``, which reaches no device that is written in Python."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func not in _FROM_LISTS or device is None or torch.device(device).type != NAME:
            return func(*args, **kwargs)
        if isinstance(args[0], FakeTensor):
            return func(*args, **{key: value for key, value in kwargs.items() if key != "device"})
        return func(*args, **{**kwargs, "device": "cpu"}).to(device)


class _Module:
    """``torch.fakegpu``: what torch asks of a device. Its draws are those of the host's generator."""

    def is_available(self) -> bool:
        return bool(_found)  # other tests of the process have no such device

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None:
        """Nothing to do."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        """Nothing to do."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_libraries: list[Any] = []  # an operation is registered as long as its library lives


@cache
def install() -> None:
    """Register the device with torch, once for a process."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, _KEY)
    aten = torch.library.Library("aten", "IMPL")
    for name in _FACTORIES:
        aten.impl(name, partial(_made, _op(name)), "PrivateUse1")
    for names, rule in ((_LOWER, _to_lower), (_FULL, _to_full), (_WIDEST, _to_widest)):
        for name in names:
            aten.impl(name, partial(_cast, _op(name), rule), _KEY)
    _libraries.extend([everything, aten])


def _op(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _made(op: Any, *args: Any, **kwargs: Any) -> Any:
    return _run(op, args, kwargs)


def _to_lower(x: Tensor, args: Any) -> torch.dtype:
    return torch.get_autocast_dtype(NAME)


def _to_full(x: Tensor, args: Any) -> torch.dtype:
    return torch.float32


def _to_widest(x: Tensor, args: Any) -> torch.dtype:
    floats = [y.dtype for y in tree_flatten(args)[0] if isinstance(y, Tensor) and y.is_floating_point()]
    return max(floats, key=lambda dtype: dtype.itemsize)


def _cast(op: Any, rule: Callable[[Tensor, Any], torch.dtype], *args: Any, **kwargs: Any) -> Any:
    """An operation under autocast: floats on the device are cast, but for float64."""

    def cast(x: Any) -> Any:
        eligible = isinstance(x, Tensor) and x.device.type == NAME and x.is_floating_point()
        return x.to(rule(x, args)) if eligible and x.dtype != torch.float64 else x

    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        return op(*tree_map(cast, args), **{key: tree_map(cast, value) for key, value in kwargs.items()})


@contextmanager
def trainable() -> Iterator[None]:
    """Inside, ``device="fakegpu"`` is a setting of training: Fabric has an accelerator of this name."""
    from lightning_fabric.accelerators import ACCELERATOR_REGISTRY, CPUAccelerator
    from lightning_fabric.connector import _Connector
    from lightning_fabric.strategies import SingleDeviceStrategy

    class FakeAccelerator(CPUAccelerator):
        def setup_device(self, device: torch.device) -> None:
            """Nothing to do."""

    chosen = _Connector._choose_strategy

    def choose(self: Any) -> Any:
        here = self._accelerator_flag == NAME
        return SingleDeviceStrategy(device=torch.device(DEVICE)) if here else chosen(self)

    ACCELERATOR_REGISTRY.register(NAME, FakeAccelerator, override=True)
    try:
        with mock.patch.object(_Connector, "_choose_strategy", choose):
            yield
    finally:
        ACCELERATOR_REGISTRY.pop(NAME)


install()  # before the first backward pass of the process, which fixes the number of devices that autograd knows
