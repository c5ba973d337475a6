"""Tasks of a study on the nodes of a Ray cluster. A node shares no file system with this machine, so folders travel as bytes."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from importlib import metadata
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NamedTuple

from polyvae import runs
from polyvae.config import RunConfig
from polyvae.data import DATASETS
from polyvae.data.custom import is_import, is_path
from polyvae.data.readers.tables import listed
from polyvae.data.sets.files import cache_folder
from polyvae.metrics.released import file_of_judges
from polyvae.study.cluster import LOCAL, joined
from polyvae.study.packing import pack, unpack
from polyvae.study.plan import data_key
from polyvae.study.workers import INTERRUPTED, Answer, Task, line_of
from polyvae.training.scopes import threads
from polyvae.utils.errors import InputError
from polyvae.utils.files import StorageError, read_bytes, write_atomic

_log = logging.getLogger("polyvae")
_LOOK = 1.0  # seconds between looks at the processors of the cluster
_TRIES = 3  # nodes for a task whose node was lost
_PATIENCE = 5  # looks without a processor before a warning


_File = tuple[str, bytes]  # the name of a file in the cache, and its content


class Returned(NamedTuple):
    """What a node sends back: the answer, the packed folder, the file of the judges that it trained, and the lines of its log."""

    answer: Answer
    folder: bytes | None = None
    judges: _File | None = None
    lines: tuple[str, ...] = ()


class RayWorkers:
    """Runs tasks on a Ray cluster, one processor each. If a node is lost, its tasks are run on others."""

    def __init__(self, address: str, jobs: int | None, here: int) -> None:
        """``jobs``: the largest number of tasks at the same time; None: ``here`` on this machine, all processors of another cluster."""
        self.jobs = (jobs or here) if address == LOCAL else jobs
        self._connection: AbstractContextManager[Any] = joined(address, self.jobs or 1)
        self.ray = self._connection.__enter__()
        self._act = self.ray.remote(max_retries=0)(_sent())
        self.busy: dict[Any, tuple[str, Task]] = {}
        self._judges: dict[str, _File] = {}
        self._idle = 0  # looks in a row at which nothing ran
        self._version = metadata.version("polyvae")

    def run(self, tasks: Mapping[str, Task]) -> Iterator[tuple[str, Answer]]:
        """Names and answers in the order of completion. Raises KeyboardInterrupt if a task was interrupted."""
        waiting, tries = list(tasks)[::-1], Counter[str]()
        while waiting or self.busy:
            while waiting and len(self.busy) < self._room():
                name = waiting.pop()
                tries[name] += 1
                try:
                    self._give(name, tasks[name])
                except InputError as problem:
                    yield name, Answer(None, line_of(problem))
            for one in self._done():
                name, task = self.busy[one]
                answer = self._answer(one, task, name)
                del self.busy[one]
                if answer is None and tries[name] < _TRIES:
                    _log.warning("%s: its node was lost; it is run on another one", name)
                    waiting.append(name)
                    continue
                answer = answer or Answer(None, f"its node was lost, {_TRIES} times")
                if answer.error == INTERRUPTED:
                    raise KeyboardInterrupt
                yield name, answer

    def stop(self) -> None:
        """Let running tasks end cleanly, each with a checkpoint; no further task begins."""
        for one in self.busy:
            self.ray.cancel(one, force=False)
        while self.busy:
            for one in self._done():
                name, task = self.busy.pop(one)
                self._answer(one, task, name)

    def close(self) -> None:
        """Disconnect. Tasks that still run are ended by Ray."""
        self.busy.clear()
        self._connection.__exit__(None, None, None)

    # ---- tasks and answers -----------------------------------------------------------------------------------

    def _room(self) -> int:
        """The number of tasks that may run at the same time; nodes may come and go."""
        processors = int(self.ray.cluster_resources().get("CPU", 0))
        return processors if self.jobs is None else min(self.jobs, processors)

    def _give(self, name: str, task: Task) -> None:
        gpus = task.config.train.devices if task.config.train.device.startswith("cuda") else 0
        if gpus > max(
            (node["Resources"].get("GPU", 0) for node in self.ray.nodes() if node["Alive"]), default=0
        ):
            raise InputError(
                f"got train.device = {task.config.train.device!r} for {gpus} devices; expected a node with them; choose 'cpu', or start "
                "nodes with GPUs"
            )
        folder = task.folder if task.folder is not None and task.folder.exists() else None
        options = {"num_cpus": 1, "num_gpus": gpus, "name": name}
        sent = (
            bytes(ForkingPickler.dumps(task)),
            None if folder is None else pack(folder),
            self._judges_for(task),
            os.getcwd(),
        )
        self.busy[self._act.options(**options).remote(self._version, *sent)] = name, task

    def _judges_for(self, task: Task) -> _File | None:
        """The judges of the data set, if they are in the cache of this machine or a node has trained them."""
        key = data_key(task.config)
        if task.judges and key not in self._judges:
            path = file_of_judges(runs.data_of(task.config)[0])
            if path is not None and path.is_file():
                self._judges[key] = path.name, read_bytes(path)
        return self._judges.get(key) if task.judges else None

    def _done(self) -> list[Any]:
        """The tasks that have ended, after a short wait."""
        if not self.busy:
            time.sleep(_LOOK)  # no node has a processor now
            self._idle += 1
            if self._idle == _PATIENCE:
                _log.warning(
                    "the cluster has no processors, so no cell can run; it is waited for nodes that have some (ray start --address=...)"
                )
            return []
        self._idle = 0
        done, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=_LOOK)
        return list(done)

    def _answer(self, one: Any, task: Task, name: str) -> Answer | None:
        """The answer of a task that has ended, after its folder was written; None if its node was lost."""
        errors = self.ray.exceptions
        try:
            found = self.ray.get(one)
        except errors.TaskCancelledError:
            return Answer(None, INTERRUPTED)
        except (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError):
            return None
        except errors.OutOfMemoryError:
            return Answer(None, "worker ended by Ray, because its node was out of memory")
        except errors.WorkerCrashedError:
            return Answer(None, "worker was lost, perhaps out of memory")
        except errors.RayError as problem:
            return Answer(None, line_of(problem))
        answer, folder, judges, lines = Returned(*found)
        for line in lines:
            _log.warning("%s: %s", name, line)
        try:
            if judges is not None:
                self._keep(task, judges)
            if folder is not None and task.folder is not None:
                unpack(folder, task.folder)
        except (InputError, OSError) as problem:
            return Answer(None, line_of(problem))
        return Answer(*answer)

    def _keep(self, task: Task, judges: _File) -> None:
        """Store trained judges in the cache of this machine, and send them to all tasks that follow."""
        self._judges[data_key(task.config)] = judges
        _store(judges)


# ---- on a node ---------------------------------------------------------------------------------------------------------------------


def _sent() -> Callable[..., Any]:
    """The function that a node runs first. It is sent as code, because a node may have another polyvae."""

    def first(version: str, *sent: Any) -> Any:
        import platform
        from importlib import metadata

        found = metadata.version("polyvae")
        if found != version:
            got = f"node {platform.node()}: got polyvae {found}"
            return (
                (None, f"{got}; expected {version}, as where the study was started; install it"),
                None,
                None,
                (),
            )
        from polyvae.study.nodes import act

        return act(*sent)

    return first


def act(task: bytes, folder: bytes | None, judges: _File | None, cwd: str) -> Returned:
    """Run a pickled task in a temporary folder, which has the packed contents. ``cwd``: the working directory of the study."""
    lines, root = _Lines(), logging.getLogger()
    level = root.manager.disable
    logging.disable(logging.INFO)  # as in the processes of a study on one machine
    root.addHandler(lines)
    logging.captureWarnings(True)
    try:
        with threads(1), tempfile.TemporaryDirectory(prefix="polyvae-") as place:
            found = _returned(ForkingPickler.loads(task), folder, judges, Path(cwd), Path(place))
            return found._replace(lines=tuple(lines.found))
    except KeyboardInterrupt:  # before the task began, or while its folder was packed
        return Returned(Answer(None, INTERRUPTED))
    except Exception as problem:  # any error of a task must leave the other tasks running
        return Returned(Answer(None, line_of(problem)))
    finally:
        logging.captureWarnings(False)
        root.removeHandler(lines)
        logging.disable(level)


def _returned(task: Task, packed: bytes | None, judges: _File | None, cwd: Path, place: Path) -> Returned:
    check_data(task.config, cwd)
    if judges is not None:
        _store(judges)
    with contextlib.chdir(cwd) if cwd.is_dir() else contextlib.nullcontext():
        return _acted(task, packed, place)


def _acted(task: Task, packed: bytes | None, place: Path) -> Returned:
    if task.folder is None:
        answer = _done(task.act)
        return Returned(answer, None, _trained(task) if task.judges and not answer.error else None)
    folder = place / task.folder.name
    if packed is not None:
        unpack(packed, folder)
    answer = _done(lambda: task.act(folder))
    answer = answer._replace(error=answer.error.replace(str(folder), str(task.folder)))
    return Returned(answer, pack(folder) if folder.exists() else None)


def _done(action: Callable[[], Any]) -> Answer:
    try:
        return Answer(action())
    except KeyboardInterrupt:
        return Answer(None, INTERRUPTED)
    except Exception as problem:  # what the task has written so far is returned beside its error
        return Answer(None, line_of(problem))


def _trained(task: Task) -> _File | None:
    """The judges that the task has trained or found in the cache of the node; None if there is no cache."""
    path = file_of_judges(runs.data_of(task.config)[0])
    return (path.name, read_bytes(path)) if path is not None and path.is_file() else None


def _store(judges: _File) -> None:
    """Put judges into the cache of this machine, so that all nodes judge alike."""
    (name, content), folder = judges, cache_folder(True)
    if folder is None or Path(name).name != name:
        return
    path = folder / name
    if path.is_file() and read_bytes(path) == content:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except (OSError, StorageError) as problem:
        _log.warning("judges are not cached at %s (%s)", path, problem)


def check_data(config: RunConfig, cwd: Path) -> None:
    """Raises InputError, which names this node and the path, if data of the run are not on it. Relative paths begin at ``cwd``."""
    for what, path in _paths(config):
        if not (cwd / path).exists():
            raise InputError(
                f"node {platform.node()}: {what}: got no {cwd / path} there; expected the data of a cell under the same path on every "
                "node; copy them to the node"
            )


def _paths(config: RunConfig) -> Iterator[tuple[str, Path]]:
    """The paths that the run reads, with the setting of each. Data sets that are made by code have none."""
    data = config.data
    root = data.root
    if data.name in DATASETS:
        root = (root or os.environ.get("POLYVAE_DATA")) if DATASETS[data.name].needed else None
    if root is not None:
        yield "data.root" if data.root else "POLYVAE_DATA", Path(root)
    if data.name not in DATASETS and not is_import(data.name) and is_path(data.name):
        files = data.options.get("files")
        for path in [*listed(data.name).values(), *(listed(files).values() if files else ())]:
            yield "data.name", Path(root or "") / path
    kind, _, weights = config.evaluate.features.partition(":")
    if kind == "inception" and weights:
        yield "evaluate.features", Path(weights)


class _Lines(logging.Handler):
    """Keeps warnings, one line each."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(" ".join(record.getMessage().split()))
