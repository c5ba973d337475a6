"""A training by several processes: what started them, that all end if one does, and what they exchange."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

from polyvae.config import TrainConfig
from polyvae.training.history import TrainingError
from polyvae.utils.errors import InputError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_LEADER = "POLYVAE_LEADER"
"""In the environment of the processes that ``fit`` starts: the process that started them."""
_MEMBER = "POLYVAE_MEMBER"
"""In the environment of these processes, once they train: each itself. What one of them starts has inherited it."""
_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", _LEADER, _MEMBER)
_group: dict[str, str] = {}
"""The variables of the processes that this one has started, for further trainings by the same processes."""
_LOOK, _GRACE = 0.25, 2.5  # seconds between looks, and for a process to end by itself
_CUT = ("connection closed", "connection reset", "broken pipe", "socket", "gloo", "nccl", "timed out")


class LocalError(TrainingError):
    """An error of one process, of which the others do not know."""


class LostProcess(LocalError):
    """Another process of the training ended before it was done."""


class ErrorElsewhere(InputError):
    """An error of another process, which is raised in all."""


class Launch(NamedTuple):
    """What started this process: ``by`` "torchrun", "srun", "fit" or nothing; the processes in all, and those on this machine."""

    by: str
    world: int
    local: int

    @classmethod
    def found(cls) -> Launch:
        """As the environment states it. A SLURM job without srun runs its script once, so nothing was started."""
        given = {**os.environ, **_group}
        if "TORCHELASTIC_RUN_ID" in given:
            return cls("torchrun", int(given["WORLD_SIZE"]), int(given["LOCAL_WORLD_SIZE"]))
        tasks = int(given.get("SLURM_STEP_NUM_TASKS", "1")) if "SLURM_PROCID" in given else 1
        if tasks > 1:
            return cls("srun", tasks, tasks // int(given.get("SLURM_STEP_NUM_NODES", "1")))
        if "LOCAL_RANK" in given and "WORLD_SIZE" in given and not _inherited():
            return cls("fit", int(given["WORLD_SIZE"]), int(given["WORLD_SIZE"]))
        return cls("", 1, 1)


def is_first() -> bool:
    """Whether this process is the first of its training, or the only one; also before ``fit`` and after it."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    by, given = Launch.found().by, {**os.environ, **_group}
    return not by or int(given[{"torchrun": "RANK", "srun": "SLURM_PROCID", "fit": "LOCAL_RANK"}[by]]) == 0


def _inherited() -> bool:
    """Whether the variables are those of a training whose processes do not include this one, which one of them has started."""
    return os.environ.get(_MEMBER, str(os.getpid())) != str(os.getpid())


@contextmanager
def variables() -> Iterator[None]:
    """Inside, the environment has the variables of the processes that ``fit`` has started or will start from this one.

    Afterwards it is as before, because a script that this process starts later is none of these. Those that something else has set stay.
    """
    by = Launch.found().by
    if by and not _group:
        yield
        return
    before = {name: os.environ.get(name) for name in _VARIABLES}
    if _inherited():
        _restore(dict.fromkeys(_VARIABLES))
    os.environ.update(_group)
    try:
        yield
    finally:
        if "LOCAL_RANK" in os.environ:
            _group.update({name: os.environ[name] for name in _VARIABLES if name in os.environ})
        _restore(before)


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class Ranks:
    """The processes of a training, seen from one of them; also if it is the only one."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric, self.count, self.rank = fabric, fabric.world_size, fabric.global_rank
        self.first = fabric.is_global_zero
        self.agreed: Exception | None = None  # an error that is raised in all

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error inside, in one of the processes, is raised in all. No process may wait for another inside."""
        problem: Exception | None = None
        try:
            yield
        except Exception as found:
            if self.count == 1:
                raise
            problem = found
        if self.count == 1:
            return
        texts = self.gathered(None if problem is None else f"{problem}")
        source = next((rank for rank, text in enumerate(texts) if text is not None), self.rank)
        if source != self.rank:
            problem = ErrorElsewhere(texts[source])
        self.agreed = problem
        if problem is not None:
            raise problem

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, in their order."""
        values = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(values, value)
        return values

    def summed(self, x: Tensor) -> Tensor:
        """The sum over the processes; in one process ``x`` itself."""
        if self.count == 1:
            return x
        total = self.fabric.all_reduce(x.to(self.fabric.device, copy=True), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.to(x.device)

    def any(self, *mine: bool) -> list[bool]:
        """For each flag, whether it is true in one of the processes. All must ask."""
        if self.count == 1:
            return [*mine]
        return [votes > 0 for votes in self.summed(torch.tensor(mine, dtype=torch.float32)).tolist()]

    def check_alike(self, **parts: Any) -> None:
        """Raises InputError where the processes have not the same value of a part. All must ask."""
        for rank, others in enumerate(self.gathered(parts)):
            for name, value in parts.items():
                if others[name] != value:
                    raise InputError(
                        f"fit: got {name.replace('_', ' ')} {value!r} in process {self.rank} and {others[name]!r} in process {rank}; "
                        "expected the same in all, each of which runs the script from its beginning; seed what the script draws"
                    )

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the buffers of the first, such as running means, which each has made from its own samples."""
        if self.count > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)


def is_reported_elsewhere(problem: Exception) -> bool:
    """Whether the first process, or the one whose error it is, reports it: it is raised in all, and one line is enough."""
    if isinstance(problem, ErrorElsewhere):
        return True
    return isinstance(problem, TrainingError) and not isinstance(problem, LostProcess) and not is_first()


# ---- all end if one does ------------------------------------------------------------------------------------------------------------

_started: list[Any] = []
"""The processes that this one has started."""


@contextmanager
def launched(fabric: Fabric, train: TrainConfig) -> Iterator[Ranks]:
    """Start the other processes and meet them. Inside, each has its share of the processors, and all end within seconds if one does."""
    if train.devices == 1:
        fabric.launch()
        yield Ranks(fabric)
        return
    threads, variable, launch = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"), Launch.found()
    guard, ranks = _Guard(fabric, launch), None
    atexit.unregister(_leave)
    guard.start()
    try:
        fabric.launch()
        if launch.by in ("", "fit"):
            os.environ[_MEMBER] = str(os.getpid())
        guard.met = True
        torch.set_num_threads(min(threads, share_of_cores(train)))
        yield (ranks := Ranks(fabric))
        atexit.register(_leave)
    except BaseException as problem:
        atexit.unregister(_leave)
        # The group is not destroyed: with gloo, its destructor can wait for ever for a thread that waits for this one.
        alone = isinstance(problem, LocalError) or not isinstance(problem, TrainingError)
        if alone and (ranks is None or problem is not ranks.agreed):
            guard.end_children()
        if isinstance(problem, RuntimeError) and _is_cut(problem):
            raise LostProcess(
                "training: another process of this training ended; expected all of them to finish; its own message is above; "
                "resume continues from the newest checkpoint"
            ) from None
        raise
    finally:
        guard.done.set()
        torch.set_num_threads(threads)
        if variable is None:  # Fabric sets it
            os.environ.pop("OMP_NUM_THREADS", None)


def _leave() -> None:
    """At the end of the process: a group that is left to the destructors of C++ can end a process that has succeeded with SIGABRT."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def share_of_cores(train: TrainConfig) -> int:
    """The processors for each process of a training on this machine."""
    launch = Launch.found()
    return max(1, (os.cpu_count() or 1) // (launch.local if launch.by else train.devices))


def _is_cut(problem: RuntimeError) -> bool:
    text = str(problem).lower()
    return isinstance(problem, distributed.DistError) or any(word in text for word in _CUT)


class _Guard(threading.Thread):
    """Ends this process, and those that it started, if another one is gone and it does not notice by itself.

    One that waits for processes that never come, or in a library that does not see that they are gone, would wait for minutes.
    """

    def __init__(self, fabric: Fabric, launch: Launch) -> None:
        super().__init__(daemon=True, name="polyvae-processes")
        self.done = threading.Event()
        self.met = False  # before, there is no connection that could be cut
        self.parent: int | None = None
        if not launch.by:
            global _started
            os.environ[_LEADER] = str(os.getpid())
            launcher: Any = fabric.strategy.launcher
            _started = launcher.procs  # filled when it launches
        elif launch.by == "torchrun":  # whatever an earlier training has left in the environment
            self.parent = os.getppid()
        elif not is_first():
            self.parent = int(os.environ.get(_LEADER, os.getppid()))

    def run(self) -> None:
        while not self.done.wait(_LOOK):
            if not self._lost():
                continue
            if self.done.wait(_GRACE if self.met else 0):
                return
            self._kill()
            print(
                "error: training: another process of this training ended; expected all of them to finish",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)

    def end_children(self) -> None:
        """Wait for a moment until the processes that this one started end, and kill those that do not."""
        self.done.set()
        until = time.monotonic() + _GRACE
        while time.monotonic() < until and any(child.poll() is None for child in _started):
            time.sleep(_LOOK / 5)
        self._kill()

    def _lost(self) -> bool:
        if self.parent is not None:
            return os.getppid() != self.parent
        return any(child.poll() is not None for child in _started)

    def _kill(self) -> None:
        for child in _started:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
        # Fabric kills this process if one in its list has failed; the error of this process would be lost.
        _started.clear()
