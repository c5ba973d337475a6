"""Training time to a conditional coherence of .90 on polydigits, with the settings of the demo; evaluation is not counted.

python experiments/time_to_coherence.py [--seeds 3] [--set train.lr=1e-3]
"""

from __future__ import annotations

import argparse
from typing import Any

from polyvae.config import read_config
from polyvae.core.vae import MultimodalVAE
from polyvae.metrics import Context, train_judges
from polyvae.metrics.coherence import coherence
from polyvae.runs import DEMO, data_of, model_of
from polyvae.training.loop import fit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    given = parser.parse_args()
    for seed in range(given.seeds):
        config = read_config(DEMO, [*given.settings, f"train.seed={seed}"])
        data, train = data_of(config)
        judges = train_judges(data)
        curve: list[tuple[float, int, float]] = []

        def watch(
            model: MultimodalVAE,
            record: dict[str, Any],
            data: Any = data,
            judges: Any = judges,
            curve: Any = curve,
        ) -> None:
            found = coherence(Context.of(model, data.test, judges, draws=10))["conditional_coherence"]
            curve.append((record["seconds"], record["step"], round(found, 3)))

        fit(model_of(config, data), train, run=config, show=False, watch=watch)
        passed = next(((seconds, step) for seconds, step, found in curve if found >= 0.9), None)
        print(f"seed {seed}: passes .90 at {passed}; curve {curve}", flush=True)


if __name__ == "__main__":
    main()
