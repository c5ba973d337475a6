"""The sections about image quality, reconstruction, latents and gradients. Each is shown only if the evaluation has its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyvae.metrics.latents import ACTIVE
from polyvae.report.drawing import Figure
from polyvae.report.figures import Columns, bars, column_bars, heat_map
from polyvae.report.metrics import KNOWN, measure_title, metric, number
from polyvae.report.sections import Page, Section, Table


def latents_section(page: Page) -> Section | None:
    """What linear probes predict from z and w, and which latent dimensions are used."""
    values = page.evaluation
    probes, units = values.get("probes") or {}, values.get("units") or {}
    if not probes and not units:
        return None
    tables = [headlines(values, "probe_", "active_units_", "kl_")]
    if probes:
        rows = f"{values['probe_rows']:,} training samples" if "probe_rows" in values else "training samples"
        tables.append(
            Table(
                ("encoded", "predicted", "from z", "from w", "chance", "should be in", "test samples"),
                _probed(probes),
                f"Linear probes of {values.get('probed', 'the latents')}, fitted on {rows}.",
            )
        )
    lead = "z should predict what is shared, and each w what is private to its modality. The other two are leaks."
    return Section(
        "latents", "Latent representations", lead, [_used(units)] if any(units.values()) else [], tables
    )


def conflict_section(page: Page) -> Section | None:
    """Whether the gradients of the modalities with respect to z agree, and how large they are."""
    values = page.evaluation
    gradients = values.get("gradients") or {}
    if not gradients.get("cosine"):
        return None
    cosine, share = gradients["cosine"], gradients.get("share") or {}
    figures = [
        heat_map(
            "gradient_cosine",
            cosine,
            list(cosine),
            list(cosine),
            (0.0, 1.0),
            None,
            "",
            "Heat map of the mean cosine between gradients with respect to z: "
            + "; ".join(
                f"{a} and {b} {value:.3f}" for a, row in cosine.items() for b, value in row.items() if a < b
            ),
            "Mean cosine between the gradients of two modalities. 1: the same direction; 0: orthogonal; negative: opposed.",
            above="and",
        )
    ]
    if share:
        figures.append(
            bars(
                "gradient_share",
                {"share of the norm": share},
                1 / len(share),
                "equal",
                "modality",
                None,
                "Bars of each modality’s share of the gradient norm: "
                + ", ".join(f"{name}: {value:.3f}" for name, value in share.items()),
                "The share of each modality in the gradient norm. One far below the line may be ignored in training.",
            )
        )
    facts = [
        f"{metric(name).title} {number(values[name])}"
        for name in ("gradient_conflict", "gradient_cosine")
        if isinstance(values.get(name), float)
    ]
    lead = (
        "Gradients of the likelihood of each modality with respect to z. "
        + "; ".join(facts).capitalize()
        + "."
    )
    return Section("conflict", "Gradient conflict", lead, figures, wide=False)


def headlines(values: Mapping[str, Any], *starts: str) -> Table:
    """The numbers whose names begin with ``starts``, and their meanings."""
    return Table(
        ("number", "value", "meaning"),
        [
            (metric(name).title, number(values[name]), metric(name).meaning)
            for name in dict.fromkeys([*KNOWN, *values])
            if name.startswith(starts) and isinstance(values.get(name), float)
        ],
        prose=True,
    )


def _probed(probes: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the probes of each modality. For all modalities together, only the label is shown."""
    rows = []
    for encoded, from_z in probes.get("z", {}).items() or probes.get("w", {}).items():
        from_w = probes.get("w", {}).get(encoded, {})
        for what in dict.fromkeys([*from_z, *from_w]):
            if "," in encoded and what != "label":
                continue
            results = [found for found in (from_z.get(what), from_w.get(what)) if found]
            chance, kind = results[0]["chance"], results[0].get("kind")
            note = "" if all(found.get("converged", True) for found in results) else ", not converged"
            rows.append(
                (
                    "all" if "," in encoded else encoded,
                    what.rpartition("/")[2] + (" (R²)" if kind == "r2" else ""),
                    *(number(side[what]["score"]) if what in side else "–" for side in (from_z, from_w)),
                    number(chance),
                    "z" if what == "label" else "w",
                    f"{results[0]['rows']:,}{note}",
                )
            )
    return rows


def _used(units: Mapping[str, Any]) -> Figure:
    """The KL of every latent dimension: of z given all modalities, and of each w."""
    shared = list((units.get("z") or {}).items())[-1:]  # the last set is all of them
    panels = [_panel("z" if "," in name else f"z given {name}", unit) for name, unit in shared]
    panels += [_panel(f"w of {name}", unit) for name, unit in (units.get("w") or {}).items()]
    how = "; ".join(dict.fromkeys(str(unit["how"]) for _, unit in shared if "how" in unit))
    return column_bars(
        "kl_columns",
        panels,
        "Bars of the KL of each latent dimension, largest first. "
        + "; ".join(panel.title for panel in panels),
        "KL from the prior of each latent dimension, in nats, largest first. Faint: dimensions that are not used, because their mean "
        f"hardly varies over the data (variance below {ACTIVE}).{f' Of z: {how}.' if how else ''}",
    )


def _panel(name: str, unit: Mapping[str, Any]) -> Columns:
    order: Sequence[int] = sorted(range(len(unit["kl"])), key=lambda column: -unit["kl"][column])
    return Columns(
        f"{name}: {unit['active']} of {unit['columns']} used, KL {number(unit['kl_total'])}",
        [unit["kl"][column] for column in order],
        [unit["variance"][column] > ACTIVE for column in order],
    )


# ---- images ----------------------------------------------------------------------------------------------------------------------

_KINDS = {
    "unconditional": "prior of the model",
    "unconditional_fitted": "fitted prior",
    "conditional": "given another modality",
    "conditional_fitted": "given another modality, fitted prior",
    "real": "real training images",
}


def quality_section(page: Page) -> Section | None:
    """Distances between generated and real images, the feature networks, and the distance of real images."""
    values = page.evaluation
    found, settings = values.get("quality") or {}, values.get("quality_settings") or {}
    kinds = [kind for kind in _KINDS if found.get(kind)]
    if not kinds:
        return None
    nets = settings.get("features") or {}
    by_modality = {kind: found[kind] for kind in kinds if not kind.startswith("conditional")}
    measures = list(
        dict.fromkeys(
            key
            for by in by_modality.values()
            for cell in by.values()
            for key in cell
            if not key.endswith(("_std", "images"))
        )
    )
    means = [
        (
            measure_title(measure),
            *(
                number(value) if isinstance(value := values.get(_headline(kind, measure)), float) else "–"
                for kind in kinds
            ),
        )
        for measure in measures
    ]
    rows = [
        (
            name,
            _KINDS[kind],
            nets.get(name, "–"),
            *(_measured(cell, measure) for measure in measures),
            f"{cell['images']:,} and {cell['real_images']:,}",
        )
        for kind, by in by_modality.items()
        for name, cell in by.items()
    ]
    spread = any(key.endswith("_std") for by in by_modality.values() for cell in by.values() for key in cell)
    tables = [
        Table(("mean over modalities, or pairs", *(_KINDS[kind] for kind in kinds)), means),
        Table(
            ("modality", "from", "feature network", *map(measure_title, measures), "images, real images"),
            rows,
            "±: standard deviation over random subsets, which is not an error of the mean." if spread else "",
        ),
    ]
    figures = []
    pairs = {
        observed: {
            target: cell[measures[0]] for target, cell in row.items() if measures and measures[0] in cell
        }
        for observed, row in (found.get("conditional") or {}).items()
    }
    if any(pairs.values()):
        figures.append(
            _pairs(
                "quality_pairs",
                pairs,
                page,
                _span(pairs, lower=True),
                {
                    name: cell[measures[0]]
                    for name, cell in (found.get("real") or {}).items()
                    if measures[0] in cell
                }
                or None,
                "real training",
                f"{measure_title(measures[0])} by pair",
                f"{measure_title(measures[0])} of generated images, by observed modality; a stronger tint is a smaller value. Last row: "
                "real training images instead of generated ones, a lower limit in practice.",
            )
        )
    lead = (
        "Generated images compared with real held-out images, in the features of a network. Numbers of different networks, or of "
        "different numbers of images, are not comparable."
    )
    return Section("quality", "Image quality", lead, figures, tables)


def reconstruction_section(page: Page) -> Section | None:
    """Errors by pair of modalities, and the diversity of draws."""
    values = page.evaluation
    errors, spread = values.get("reconstruction") or {}, values.get("diversity_matrix") or {}
    if not errors:
        return None
    relative = all(
        "baseline_mse" in cell and cell["baseline_mse"] > 0
        for row in errors.values()
        for cell in row.values()
    )
    shown = {
        observed: {
            target: cell["mse"] / cell["baseline_mse"] if relative else cell["mse"]
            for target, cell in row.items()
        }
        for observed, row in errors.items()
    }
    unit = "Mean squared error over that of the training mean" if relative else "Mean squared error per entry"
    figures = [
        _pairs(
            "reconstruction",
            shown,
            page,
            (1.0, 0.0) if relative else _span(shown, lower=True),
            None,
            "",
            unit,
            f"{unit}: {'1 is no better than the mean, 0 is perfect' if relative else 'a stronger tint is a smaller error'}. Diagonal: "
            "reconstruction. Off the diagonal, 0 cannot be reached, because the input has no information on what is private to the target.",
        )
    ]
    if any(spread.values()):
        real = values.get("diversity_by_modality") or {}
        top = max(value for row in [*spread.values(), real] for value in row.values())
        against = (
            " Last row: between two real samples of one class, which is the reference value." if real else ""
        )
        figures.append(
            _pairs(
                "diversity",
                spread,
                page,
                (0.0, top),
                real or None,
                "real, one class",
                "Distance between draws",
                f"Distance (root mean square per entry) between two draws given one sample.{against}",
            )
        )
    lead = "Errors of decoded modalities, and the variation among draws."
    return Section(
        "reconstruction",
        "Reconstruction and diversity",
        lead,
        figures,
        [
            headlines(
                values, "reconstruction_error", "cross_reconstruction_error", "diversity", "diversity_fitted"
            )
        ],
        wide=False,
    )


def _headline(kind: str, measure: str) -> str:
    head, _, tail = kind.partition("_")
    return f"{head}_{measure}{'_' if tail else ''}{tail}"


def _measured(cell: Mapping[str, Any], measure: str) -> str:
    if measure not in cell:
        return "–"
    spread = cell.get(f"{measure}_std")
    return number(cell[measure]) + ("" if spread is None else f" ± {number(spread)}")


def _span(values: Mapping[str, Mapping[str, float]], *, lower: bool) -> tuple[float, float]:
    """From the worst to the best value."""
    every = [value for row in values.values() for value in row.values()]
    return (max(every), min(every)) if lower else (min(every), max(every))


def _pairs(
    name: str,
    values: Mapping[str, Mapping[str, float]],
    page: Page,
    span: tuple[float, float],
    last: Mapping[str, float] | None,
    last_name: str,
    title: str,
    caption: str,
) -> Figure:
    columns = [target for target in page.model.modalities if any(target in row for row in values.values())]
    alt = "; ".join(
        f"{observed} to {target} {number(value)}"
        for observed, row in values.items()
        for target, value in row.items()
    )
    return heat_map(
        name, values, list(values), columns, span, last, last_name, f"Heat map. {title}: {alt}.", caption
    )
