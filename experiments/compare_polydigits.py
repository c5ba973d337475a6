"""The five models on polydigits: equal total latent size, same networks, same training time, with and without missing modalities.

    python experiments/compare_polydigits.py --seconds 60 --out runs/compare [--jobs 2]

"Same time" is fixed beforehand: each model's processor seconds per step are measured on one thread, and it gets the whole number of epochs
that fits. Cells that are done are skipped, so it may be stopped and started. 
Prints a Markdown table: mean and sample standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOTAL = 96                                    # D + ΣW: what a model may say about five modalities
OPTIONS = {
    "vae": ["model.latent=19"],
    "mvae": ["model.latent=96"],
    "mmvae": ["model.latent=96", "model.family=normal"],
    "mopoe": ["model.latent=96"],
    "mmvae+": ["model.latent=16"],
}
COMMON = ["model.beta=1.5", "train.lr=1e-3", "train.precision=bf16", "train.threads=1", "train.device=cpu", "train.batch_size=64",
          "train.validation=0.02", "train.checkpoint_every=100000", "modality.*.params={scale=0.3,hidden=[400]}",
          "evaluate.likelihood_rows=60", "evaluate.draws=5000"]
COLUMNS = ("conditional_coherence", "unconditional_coherence", "unconditional_coherence_fitted", "log_likelihood")


def epochs_for(name: str, hide: float, seconds: float) -> int:
    """How many epochs of this model fit into so many processor seconds of one thread."""
    import torch

    from polyvae.config import read_config
    from polyvae.data import SliceLoader
    from polyvae.runs import data_of, model_of

    torch.set_num_threads(1)
    config = read_config(None, [f"model.name={name}", f"data.hide={hide}", *OPTIONS[name], *COMMON])
    data, train = data_of(config)
    model, loader = model_of(config, data), SliceLoader(train, 64)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    times = []
    for batch, _ in zip(loader.epoch(0), range(40), strict=False):
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss = -model(batch).value.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.process_time() - start)
    return max(1, round(seconds / (statistics.median(times[5:]) * len(loader))))


def cell(root: Path, name: str, hide: float, seed: int, epochs: int) -> None:
    out = root / f"{name}-{hide}-{seed}"
    settings = [f"data.hide={hide}", f"train.seed={seed}", f"train.epochs={epochs}", *OPTIONS[name], *COMMON]
    words = [word for setting in settings for word in ("--set", setting)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if not (out / "evaluation.json").exists():
        base = [sys.executable, "-m", "polyvae.cli"]
        subprocess.run([*base, "train", "--model", name, "--out", str(out), "--force", "-q", *words], check=True, env=environment)
        subprocess.run([*base, "evaluate", str(out), "-q"], check=True, env=environment, stdout=subprocess.DEVNULL)
        print(f"done: {out.name}", flush=True)


def table(root: Path, seeds: int, plan: dict[tuple[str, float], int]) -> str:
    lines = ["| model | hidden | epochs | conditional | unconditional, p(z) | fitted prior | log-likelihood, nats |",
             "|---|---|---|---|---|---|---|"]
    for (name, hide), epochs in plan.items():
        found = [json.loads((root / f"{name}-{hide}-{seed}" / "evaluation.json").read_text()) for seed in range(seeds)]
        cells = []
        for column in COLUMNS:
            values = [one[column] for one in found if one.get(column) is not None]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            digits = 1 if column == "log_likelihood" else 3
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}" if values else "–")
        lines.append(f"| {name} | {hide:.0%} | {epochs} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    known = given.out / "plan.json"
    if not known.exists():
        found = {f"{name} {hide}": epochs_for(name, hide, given.seconds) for hide in (0.0, 0.5) for name in OPTIONS}
        known.write_text(json.dumps(found))
    plan = {(key.split()[0], float(key.split()[1])): epochs for key, epochs in json.loads(known.read_text()).items()}
    print(plan, flush=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        jobs = [pool.submit(cell, given.out, *pair, seed, epochs) for seed in range(given.seeds) for pair, epochs in plan.items()]
        for job in jobs:
            job.result()
    print(table(given.out, given.seeds, plan))


if __name__ == "__main__":
    main()
