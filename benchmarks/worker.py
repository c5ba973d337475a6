"""One contender in its own process. It reads commands, one JSON object per line, and answers each with one JSON object.

python -m benchmarks.worker '{"contender": "polyvae-bf16", "work": {...}}'
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contenders import Contender, Polyvae, make
from benchmarks.works import Work, tiny


class Training:
    """A contender with its batch and its optimiser."""

    def __init__(self, name: str, work: Work, device: str, lr: float, options: dict[str, Any]) -> None:
        torch.manual_seed(work.seed)
        self.contender: Contender = make(name, work, device=device, **options)
        self.batch = self.contender.batch(work.data(), work.mask())
        learnt = [p for p in self.contender.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(learnt, lr=lr, amsgrad=True, fused=True)

    def step(self, batch: Any = None) -> Tensor:
        loss = self.contender.loss(self.batch if batch is None else batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


class Worker:
    """The commands, each a method of the same name."""

    def __init__(
        self, contender: str, work: dict[str, Any], device: str = "cpu", lr: float = 1e-3, **options: Any
    ) -> None:
        self.name, self.work, self.device, self.lr, self.options = (
            contender,
            Work.of(work),
            device,
            lr,
            options,
        )
        self.training: Training | None = None

    def _training(self) -> Training:
        if self.training is None:
            self.training = Training(self.name, self.work, self.device, self.lr, self.options)
        return self.training

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def step(self) -> dict[str, Any]:
        """Seconds of one step, by the clock and summed over the threads of this process, and its loss in nats per sample."""
        training = self._training()
        self._wait()
        start, busy = time.perf_counter(), time.process_time()
        loss = training.step()
        self._wait()
        return {
            "seconds": time.perf_counter() - start,
            "processor": time.process_time() - busy,
            "loss": float(loss),
        }

    def flops(self) -> dict[str, Any]:
        """The floating-point operations of one step, counted as executed (recomputation included), and the first loss."""
        training = self._training()
        with FlopCounterMode(display=False) as counter:
            loss = training.step()
        return {"flops": counter.get_total_flops(), "loss": float(loss)}

    def memory(self, steps: int = 2) -> dict[str, Any]:
        """Peak memory in MB over these steps, relative to the level before the first step. For a fresh process.

        A step of a toy model comes first, so that pages of the libraries are not counted. The second step includes Adam's state;
        ``state`` is the part of the peak that consists of gradients and this state.
        """
        Training(self.name, tiny(self.work), self.device, self.lr, self.options).step()
        training = self._training()
        with Rise(self.device) as rise:
            for _ in range(steps):
                training.step()
        learnt = sum(
            p.numel() * p.element_size() for p in training.contender.model.parameters() if p.requires_grad
        )
        return {"megabytes": rise.megabytes, "state": 4 * learnt / 1e6}  # gradients, and Adam's three

    def likelihood(self, rows: int, samples: int) -> dict[str, Any]:
        """Seconds per sample of the joint log-likelihood, and its mean in nats."""
        training = self._training()
        data = self.work.data(seed=1, rows=rows)
        with Rise(self.device) as rise:
            start = time.perf_counter()
            value = training.contender.likelihood(data, samples)
            self._wait()
            seconds = time.perf_counter() - start
        return {"seconds": seconds / rows, "value": value, "megabytes": rise.megabytes}

    def matmul(self, precision: str, size: int = 2048, repeat: int = 5) -> dict[str, Any]:
        """FLOP/s of the fastest of a few square matrix products."""
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        a, b = (torch.randn(size, size, device=self.device).to(dtype) for _ in range(2))
        best = math.inf
        for _ in range(repeat + 1):
            self._wait()
            start = time.perf_counter()
            torch.mm(a, b)
            self._wait()
            best = min(best, time.perf_counter() - start)
        return {"flops_per_second": 2 * size**3 / best}

    def overhead(self, steps: int, blocks: int) -> dict[str, Any]:
        """Seconds per step of ``pv.fit`` and of the bare step, alternating, from one forward pass to the next."""
        import polyvae as pv

        training = self._training()
        assert isinstance(training.contender, Polyvae)
        model = training.contender.model
        marks: list[float] = []
        model.register_forward_pre_hook(lambda module, inputs: marks.append(time.perf_counter()))
        data = pv.MultimodalData(self.work.data(rows=self.work.batch * steps), modalities=model.specs)
        found: dict[str, list[float]] = {"bare": [], "fit": []}
        for _ in range(blocks):
            for kind, periods in found.items():
                marks.clear()
                if kind == "fit":
                    pv.fit(
                        model,
                        data,
                        epochs=1,
                        batch_size=self.work.batch,
                        validation=0.0,
                        device=self.device,
                        precision="fp32",
                        show=False,
                    )
                    model.train()
                else:
                    for _ in range(steps):
                        training.step()
                periods += np.diff(marks).tolist()
        return {
            "seconds": {kind: statistics.median(periods) for kind, periods in found.items()},
            "steps": len(found["bare"]),
        }

    def trim(self) -> dict[str, Any]:
        """Return free memory to the system."""
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        return {}

    # ---- training to a coherence ---------------------------------------------------------------------------------------------------

    def open(self, path: str) -> dict[str, Any]:
        """Read ``train.npz`` and ``test.npz`` (name -> bytes [N, *shape]) from this folder."""
        parts = {part: dict(np.load(Path(path) / f"{part}.npz")) for part in ("train", "test")}
        self.parts = {
            part: {name: torch.from_numpy(x).float() / 255 for name, x in arrays.items()}
            for part, arrays in parts.items()
        }
        self.stream = self._stream(torch.Generator().manual_seed(self.work.seed))
        return {}

    def _stream(self, draws: torch.Generator) -> Iterator[dict[str, Tensor]]:
        train = self.parts["train"]
        size = len(next(iter(train.values())))
        while True:
            for index in torch.split(torch.randperm(size, generator=draws), self.work.batch):
                if len(index) == self.work.batch:
                    yield {name: x[index] for name, x in train.items()}

    def train(self, seconds: float) -> dict[str, Any]:
        """Train for this many seconds. Returns the actual seconds and the number of steps."""
        training, start, steps = self._training(), time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            training.step(training.contender.batch(next(self.stream)))
            steps += 1
        return {"seconds": time.perf_counter() - start, "steps": steps}

    def generate(self, path: str, rows: int = 500) -> dict[str, Any]:
        """Write the other modalities, generated from each modality of the test part: ``{source}.npz``, name -> [N, *shape]."""
        contender, test = self._training().contender, self.parts["test"]
        size = len(next(iter(test.values())))
        for source in test:
            found = [
                contender.generate({name: x[start : start + rows] for name, x in test.items()}, source)
                for start in range(0, size, rows)
            ]
            np.savez(
                Path(path) / f"{source}.npz",
                **{
                    name: torch.cat([part[name] for part in found]).cpu().numpy()  # type: ignore[arg-type]
                    for name in test
                    if name != source
                },
            )
        return {}


class Rise:
    """``megabytes``: peak memory relative to the level at entry, resident in the process or, on a GPU, allocated by torch."""

    megabytes: float

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def __enter__(self) -> Rise:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated() / 1e6
            return self
        self.before = self.highest = _status("VmRSS")
        self.done, self.sampler = threading.Event(), None
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        except OSError:
            self.sampler = threading.Thread(target=self._sample, daemon=True)
            self.sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device == "cuda":
            self.megabytes = torch.cuda.max_memory_allocated() / 1e6 - self.before
            return
        self.done.set()
        if self.sampler is not None:
            self.sampler.join()
        else:
            self.highest = _status("VmHWM")
        self.megabytes = self.highest - self.before

    def _sample(self) -> None:
        while not self.done.wait(0.002):
            self.highest = max(self.highest, _status("VmRSS"))


def _status(key: str) -> float:
    """MB, from the status of this process in /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    out: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(
            "1000"
        )  # if memory runs out, the kernel ends this process first
    worker = Worker(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(worker, command.pop("do"))(**command)
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
