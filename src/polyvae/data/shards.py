"""Samples in tar files (WebDataset shards), in an order that does not depend on the number of workers."""

from __future__ import annotations

import functools
import importlib.util
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from polyvae.core.batch import Batch
from polyvae.core.modality import Modality
from polyvae.utils.arrays import whole_tensor
from polyvae.utils.errors import InputError, nearest, reading
from polyvae.utils.seeds import fold_in
from polyvae.utils.text import named

Decode = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class ShardLoader:
    """Batches from tar files for ``fit``, for data that do not fit into memory. Needs webdataset (``pip install polyvae[shards]``).

    The files of one sample have one name with different endings, and are adjacent: ``0001.jpg``, ``0001.rna.npy``. Every worker reads all
    shards and decodes its own batches, so the order is a function of (seed, epoch, step), whatever the number of workers. A sample whose
    files lack a modality is missing it.

    Args:
        shards: Paths of tar files.
        modalities: The specifications. Their shapes are those that ``decode`` returns.
        decode: A sample, ending -> bytes, and "__key__" -> its name, to name -> array of the modality's shape; modalities that it leaves
            out, or gives as None, are missing. With workers it must be a function of a module.
        size: Samples in all shards together.
        batch_size: Samples in a batch; the last one of an epoch may be smaller.
        seed: The order of shards and of samples in the buffer is drawn from it, for each epoch.
        buffer: Samples that wait, undecoded, to be drawn from at random; 1: the order of the shards is kept inside.
        workers: Processes that decode; 0: none but this one.
        device: Where batches are moved.

    Raises:
        InputError: webdataset is not installed, no shard, a file that does not exist, or a number below its least value. While reading: an
            array of another shape, or a number of samples other than ``size``.

    Example:
        >>> import io, tarfile, tempfile
        >>> import numpy as np
        >>> import polyvae as pv
        >>> path = tempfile.mkdtemp() + "/0.tar"
        >>> with tarfile.open(path, "w") as tar:
        ...     for number in range(6):
        ...         content = io.BytesIO()
        ...         np.save(content, np.full(3, number, np.float32))
        ...         entry = tarfile.TarInfo(f"{number}.a.npy")
        ...         entry.size = content.tell()
        ...         tar.addfile(entry, io.BytesIO(content.getvalue()))
        >>> def decode(sample):
        ...     return {"a": np.load(io.BytesIO(sample["a.npy"]))}
        >>> loader = pv.data.ShardLoader([path], [pv.Modality("a", (3,))], decode, size=6, batch_size=4)
        >>> [batch.size for batch in loader.epoch(0)]
        [4, 2]
    """

    def __init__(
        self,
        shards: Sequence[str | Path],
        modalities: Sequence[Modality],
        decode: Decode,
        *,
        size: int,
        batch_size: int,
        seed: int = 0,
        buffer: int = 1000,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if importlib.util.find_spec("webdataset") is None:
            raise InputError(
                "shards: webdataset is not installed; expected it to read tar files; pip install 'polyvae[shards]'"
            )
        paths = [Path(path) for path in ([shards] if isinstance(shards, str | Path) else shards)]
        absent = [str(path) for path in paths if not path.is_file()]
        if not paths or absent:
            raise InputError(
                f"shards: got {named(absent) + ', which are no files' if absent else 'no path'}; expected paths of tar files; check them"
            )
        for name, value, least in (
            ("size", size, 1),
            ("batch_size", batch_size, 1),
            ("buffer", buffer, 1),
            ("workers", workers, 0),
        ):
            if value < least:
                raise InputError(
                    f"shards: got {name}={value}; expected {least} or more; the number of samples is needed for the length of an epoch"
                )
        self._size, self.batch_size, self.workers = size, batch_size, workers
        self.device = torch.device(device)
        self.stream = _Stream(
            paths, {spec.name: spec.shape for spec in modalities}, decode, batch_size, seed, buffer
        )

    @property
    def size(self) -> int:
        return self._size

    def __len__(self) -> int:
        return -(-self._size // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of this epoch from step ``start`` on. A function of its arguments and the seed alone."""
        self.stream.epoch, self.stream.start = epoch, start
        seen, waiting = start * self.batch_size, None
        # One batch waits: a caller that takes ``len`` batches would not see that there are more.
        for batch in DataLoader(self.stream, batch_size=None, num_workers=self.workers):
            if isinstance(batch, str):
                raise InputError(batch)
            seen += batch.size
            if seen > self._size:
                break
            if waiting is not None:
                yield waiting
            waiting = batch.to(self.device)
        if seen == self._size and waiting is not None:
            yield waiting
        elif seen != self._size:
            raise InputError(
                f"shards: got {'more' if seen > self._size else str(seen)} samples for size={self._size}; expected the number of samples "
                "in all shards; correct size="
            )


class _Stream(IterableDataset[Batch | str]):
    def __init__(
        self,
        paths: Sequence[Path],
        shapes: Mapping[str, tuple[int, ...]],
        decode: Decode,
        batch_size: int,
        seed: int,
        buffer: int,
    ) -> None:
        self.paths, self.shapes, self.decode = paths, shapes, decode
        self.batch_size, self.seed, self.buffer = batch_size, seed, buffer
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[Batch | str]:
        """Batches; an error as its text, because a worker would wrap it in a traceback."""
        try:
            yield from self._batches()
        except InputError as problem:
            yield str(problem)

    def _batches(self) -> Iterator[Batch]:
        worker = get_worker_info()
        mine, among = (0, 1) if worker is None else (worker.id, worker.num_workers)
        samples = islice(self._shuffled(), self.start * self.batch_size, None)
        step = 0
        while raw := list(islice(samples, self.batch_size)):
            if step % among == mine:
                yield self._batch(raw)
            step += 1

    def _shuffled(self) -> Iterator[Mapping[str, Any]]:
        """Samples, undecoded: shards in an order of this epoch, and samples drawn from a buffer."""
        import webdataset

        draws = random.Random(fold_in(self.seed, "shards", self.epoch))
        paths = [str(path.resolve()) for path in self.paths]
        draws.shuffle(paths)
        waiting: list[Mapping[str, Any]] = []
        # Without the scheme a name such as "pipe:..." would be a command.
        samples = iter(webdataset.tarfile_samples({"url": f"file:{quote(path)}"} for path in paths))
        while True:
            with reading(f"shards: {named(paths)}", "tar files", "write them again"):
                sample = next(samples, None)
            if sample is None:
                break
            waiting.append(sample)
            if len(waiting) >= self.buffer:
                yield waiting.pop(draws.randrange(len(waiting)))
        draws.shuffle(waiting)
        yield from waiting

    def _batch(self, raw: Sequence[Mapping[str, Any]]) -> Batch:
        decoded = [self._decoded(sample) for sample in raw]
        data, mask = {}, {}
        for name, shape in self.shapes.items():
            found = [sample.get(name) for sample in decoded]
            mask[name] = torch.tensor([x is not None for x in found])
            types = [x.dtype for x in found if x is not None] or [torch.float32]
            kind = functools.reduce(torch.promote_types, types)
            data[name] = torch.stack(
                [torch.zeros(shape, dtype=kind) if x is None else x.to(kind) for x in found]
            )
        return Batch.of(data, mask)

    def _decoded(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        """The modalities that the sample has. Raises InputError: no mapping, another name, another shape, or no numbers."""
        where = f"shards: sample {sample['__key__']!r} of {sample['__url__'].removeprefix('file:')}"
        found = self.decode(sample)
        if not isinstance(found, Mapping):
            raise InputError(
                f"{where}: got {type(found).__name__} from decode; expected a mapping from names to arrays; return one"
            )
        arrays = {}
        for name, x in found.items():
            if name not in self.shapes:
                raise InputError(
                    f"{where}: got modality {name!r} from decode; {nearest(str(name), self.shapes)}"
                )
            if x is None:
                continue
            values = np.ascontiguousarray(x, x.dtype.newbyteorder("=")) if isinstance(x, np.ndarray) else x
            arrays[name] = whole_tensor(f"{where}: modality {name!r}", values)
            if tuple(arrays[name].shape) != tuple(self.shapes[name]):
                raise InputError(
                    f"{where}: got {name!r} of shape {tuple(arrays[name].shape)}; expected {tuple(self.shapes[name])}; correct decode, or "
                    "the specification"
                )
        return arrays
