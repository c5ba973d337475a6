"""The mutants that ``make mutants`` runs, by module."""

from __future__ import annotations

from tests.helpers.mutants import Mutant

LIKELIHOOD = "metrics/test_likelihood.py::test_errors_and_effective_samples_by_hand"

SEQUENCE = "core/test_sequence.py"
COVARIATES = "core/test_covariates.py"
KEPT = "data/test_kept.py"

MUTANTS = [
    # ---- core.likelihoods.sequence ----
    *(
        Mutant(f"core.likelihoods.sequence:{where}", old, new, by=SEQUENCE)
        for where, old, new in (
            ("SequenceLikelihood._log_p", "(1, 0)", "(0, 1)"),
            ("SequenceLikelihood._log_p", "out.tanh()[None]", "out[None]"),
            ("SequenceLikelihood._log_p", "torch.where(ids == PADDING, 0, each)", "each"),
            ("SequenceLikelihood._log_p", "self.context(out).index_select(0, row)", "self.context(out)[:1]"),
            ("SequenceLikelihood.written", "torch.where(ended, PADDING, END)", "END"),
            ("SequenceLikelihood.written", "out.tanh()[None]", "out[None]"),
            ("TokensLikelihood.entries", "torch.where(ids == PADDING, 0, each)", "each"),
            ("TokensLikelihood.written", "torch.where(ended, PADDING, ids)", "ids"),
            ("_chosen", "logits.double().softmax(-1)", "logits.double().sigmoid()"),
            ("Text.invalid", "(ends > 0) & (x != PADDING)", "ends < 0"),
        )
    ),
    # ---- core.likelihoods of values with bounds, with outliers and of several kinds ----
    *(
        Mutant(f"core.likelihoods.{where}", old, new, by=f"core/test_{by}.py")
        for by, where, old, new in (
            (
                "likelihoods",
                "continuous:StudentTLikelihood.distance",
                "0.5 * (df + 1) * log",
                "0.5 * df * log",
            ),
            ("likelihoods", "continuous:StudentTLikelihood.distance", "2 * large.log()", "large.log()"),
            ("likelihoods", "continuous:StudentTLikelihood.density", "half + 0.5", "half"),
            ("likelihoods", "continuous:StudentTLikelihood.sample", "self.df / 2", "self.df"),
            (
                "shares",
                "shares:BetaLikelihood.entries",
                "deviance(beta, -change, log_beta - log_phi - log_rest)",
                "0",
            ),
            (
                "shares",
                "shares:BetaLikelihood.entries",
                "gamma_remainder(beta, log_beta)",
                "gamma_remainder(alpha, log_alpha)",
            ),
            (
                "shares",
                "shares:BetaLikelihood.entries",
                "x.clamp(_TINY, 1 - torch.finfo(x.dtype).eps / 2)",
                "x",
            ),
            (
                "shares",
                "shares:BetaBinomialLikelihood.entries",
                "change = smaller / both",
                "change = smaller / n",
            ),
            (
                "shares",
                "shares:BetaBinomialLikelihood.entries",
                "factorial_remainder(rest)",
                "factorial_remainder(x)",
            ),
            ("shares", "shares:BetaBinomialLikelihood.mean", "self.total * out.sigmoid()", "out.sigmoid()"),
            ("shares", "shares:_log_gamma", "u.log() / concentration.clamp(min=_TINY)", "u.log()"),
            (
                "ordered",
                "ordered:OrdinalLikelihood.entries",
                "(rank - 1).clamp(min=0)",
                "rank.clamp(max=inner - 1)",
            ),
            (
                "ordered",
                "ordered:OrdinalLikelihood.entries",
                "place + rank.clamp(max=inner - 1)",
                "rank.clamp(max=inner - 1)",
            ),
            (
                "ordered",
                "ordered:OrdinalLikelihood.mean",
                "out[..., None] - self.thresholds",
                "self.thresholds - out[..., None]",
            ),
            (
                "ordered",
                "ordered:OrdinalLikelihood.sample",
                "u[..., None] >= (self.thresholds - out[..., None]).sigmoid()",
                "u[..., None] >= self.thresholds.sigmoid()",
            ),
            ("ordered", "ordered:DiscretisedLogisticLikelihood.entries", "k == self.top", "k > self.top"),
            (
                "ordered",
                "ordered:DiscretisedLogisticLikelihood._integral",
                "slope / 24 / width",
                "slope / 12 / width",
            ),
            (
                "ordered",
                "ordered:DiscretisedLogisticLikelihood._near",
                "number = first",
                "number = first * 0",
            ),
            (
                "ordered",
                "ordered:DiscretisedLogisticLikelihood.sample",
                "k.round().clamp(0, self.top)",
                "k.round().clamp(0, self.top - 1)",
            ),
            ("ordered", "special:log_between", "first | last", "first"),
            ("mixed", "mixed:MixedLikelihood.log_prob", "total + own", "own"),
            ("mixed", "mixed:MixedLikelihood.each", "start += size", "start += likelihood.shape[0]"),
            (
                "mixed",
                "mixed:MixedLikelihood.counted",
                "part.likelihood.counted(observed[..., part.columns])",
                "observed[..., part.columns]",
            ),
            ("mixed", "mixed:MixedLikelihood.largest", "part.largest", "0"),
            ("mixed", "mixed:_library", "library[..., number : number + 1]", "library[..., :1]"),
            ("mixed", "mixed:MixedLikelihood.invalid", "bool(seen.any())", "False"),
        )
    ),
    Mutant(
        "data.suitable:_flat", "each.numel() * spread**2 / 2 >= _NATS", "False", by="data/test_suitable.py"
    ),
    Mutant("data.suitable:_discrete", "(rows == 1).all()", "(rows >= 0).all()", by="data/test_suitable.py"),
    Mutant("data.kinds:_inferred", "spread >= _SPREAD[0]", "True", by="data/test_kinds.py"),
    # ---- what is done to people's data without being asked ----
    *(
        Mutant(where, old, new, by=by)
        for where, old, new, by in (
            (
                "core.likelihoods.continuous:Scaled.entries",
                "found - self.std.log()",
                "found",
                "core/test_likelihoods.py",
            ),
            ("data.automatic:_chosen", 'data._splits.get("train")', "None", "data/test_automatic.py"),
            ("data.kinds:panel_of", "reaching.mean() >= 0.5", "True", "data/test_automatic.py"),
            ("data.kinds:panel_of", "_NEARLY * several", "several", "data/test_automatic.py"),
            (
                "data.readers.doubtful:_few_codes",
                "times.min() < max(_OFTEN[0], _OFTEN[1] * len(x))",
                "False",
                "data/readers/test_doubtful.py",
            ),
            ("data.readers.together:with_ids", "len(fitting) > 1", "False", "data/readers/test_together.py"),
            (
                "data.readers.types:_integers",
                "(x != np.floor(x)).any()",
                "False",
                "data/readers/test_frames.py",
            ),
            (
                "imputation.scoring.rows:numeric_rows",
                "found / unit if name in IN_UNITS else found",
                "found",
                "imputation/scoring/test_scores.py",
            ),
        )
    ),
    # ---- data.kept, data.digest ----
    Mutant("data.kept:Kept.part", "self.index[rows]", "rows", by=KEPT),
    Mutant("data.kept:Kept._own", "self.index[rows]", "np.arange(self.shape[0])[rows]", by=KEPT),
    Mutant(
        "data.shards:_Stream._shuffled",
        'fold_in(self.seed, "shards", self.epoch)',
        'fold_in(self.seed, "shards")',
        by="data/test_shards.py::test_an_epoch_has_every_sample_once_in_an_order_of_its_own",
    ),
    Mutant(
        "metrics.results:generate",
        'fold_in(seed, "generate", start)',
        'fold_in(seed, "generate")',
        by="metrics/test_results.py",
    ),
    *(
        Mutant(f"core.likelihoods.masses:{where}", old, new, by="core/test_counts.py")
        for where, old, new in (
            ("_Poisson.backward", "x - _mean(log_mean)", "x - log_mean"),
            ("_in_log_mean", "dispersion + mean", "mean"),
            ("_InDispersion.forward", "torch.log1p(mean / dispersion)", "mean / dispersion"),
            ("_positive_in_dispersion", "x / total / (2 * dispersion)", "x / total / dispersion"),
            ("_second_derivatives", "share * gap", "share"),
            ("_in_inflation", "torch.where(zero, apart.sigmoid(), 1)", "apart.sigmoid()"),
            ("_leading", "x.movedim(dim, 0)", "x"),
        )
    ),
    Mutant("core.likelihoods.special:stirling_slope", "0.5 / small", "1 / small", by="core/test_counts.py"),
    Mutant(
        "metrics.context:subsample",
        "numbers[chosen]",
        "chosen",
        by="metrics/test_matching.py",
    ),
    Mutant(
        "data.hiding:scores", "standardised(x, seen) @ loadings", "x @ loadings", by="data/test_hiding.py"
    ),
    Mutant(
        "training.processes:variables",
        "_restore(before)",
        "None",
        by="training/test_machine.py",
    ),
    Mutant("data.kept:Kept._rows", "self._dense(found)[back]", "self._dense(found)", by=KEPT),
    Mutant(
        "data.kept:with_gaps", "agreeing(stored.mask, gaps, stored.names)", "(stored.mask, gaps)", by=KEPT
    ),
    Mutant("data.digest:digest_of", "mask[piece]", "torch.ones_like(mask[piece])", by=KEPT),
    # ---- core.covariates, extend, mixing ----
    Mutant(
        "core.covariates:Covariate.encode", "values.to(dtype) - self.mean", "values.to(dtype)", by=COVARIATES
    ),
    Mutant("core.covariates:Covariate.encode", "place.get(level, -1)", "place.get(level, 0)", by=COVARIATES),
    Mutant(
        "core.modalities:Modalities.latents",
        "self.covariates(m, batch, z)",
        "self.covariates(m, None, z)",
        by=COVARIATES,
    ),
    Mutant(
        "core.inference:Inference.generate",
        "batch if covariates is None else self._counterfactual(batch, covariates)",
        "batch",
        by=COVARIATES,
    ),
    Mutant(
        "training.extending:_masked",
        "torch.where(new, gradient, 0)",
        "gradient",
        by="training/test_extending.py",
    ),
    Mutant(
        "metrics.mixing:lisi",
        "np.where(codes[index] == code, weights, 0)",
        "np.where(codes[index] == code, others, 0)",
        by="metrics/test_mixing.py",
    ),
    Mutant("metrics.mixing:lisi", "np.log(k // 3)", "np.log(k / 2)", by="metrics/test_mixing.py"),
    Mutant(
        "metrics.mixing:silhouettes_of_batches",
        "1 - np.abs(_widths(x[rows], codes[rows]))",
        "1 - _widths(x[rows], codes[rows])",
        by="metrics/test_mixing.py",
    ),
    # ---- core.bounds ----
    Mutant("core.bounds:elbo", "log_weight.mean(0)", "log_weight.sum(0)"),
    Mutant(
        "core.bounds:iwae", "log_weight.logsumexp(0) - math.log(len(log_weight))", "log_weight.logsumexp(0)"
    ),
    Mutant(
        "core.bounds:iwae",
        "log_weight.logsumexp(0) - math.log(len(log_weight))",
        "log_weight.logsumexp(0) + math.log(len(log_weight))",
    ),
    Mutant("core.bounds:iwae", "len(log_weight)", "log_weight.shape[-1]"),
    Mutant("core.bounds:dreg", "1 - beta + beta * weight", "weight"),
    Mutant("core.bounds:dreg", "beta * weight", "beta * weight ** 2"),
    Mutant("core.bounds:dreg", "1 - beta + beta * weight", "1 + beta - beta * weight"),
    Mutant("core.bounds:dreg", "log_weight.softmax(0)", "log_weight.softmax(-1)"),
    Mutant(
        "core.bounds:dreg",
        "(log_weight.softmax(0) if normalised is None else normalised).detach()",
        "log_weight.softmax(0) if normalised is None else normalised",
        harmless="a hook's factor is not differentiated in one backward pass",
    ),
    Mutant(
        "core.bounds:dreg",
        "log_weight.softmax(0) if normalised is None else normalised",
        "log_weight.softmax(0)",
    ),
    Mutant("core.bounds:dreg", "torch.where(columns, scaled, 1)", "torch.where(columns, 1, scaled)"),
    Mutant("core.bounds:dreg", "scaled if columns is None else torch.where(columns, scaled, 1)", "scaled"),
    Mutant("core.bounds:dreg", "draws.requires_grad", "False"),
    Mutant("core.bounds:estimate", "objective == 'dreg'", "objective == 'never'"),
    Mutant("core.bounds:over_components", "torch.where(weights > 0, weights * value, 0)", "weights * value"),
    Mutant("core.bounds:over_components", "weights * value", "value"),
    Mutant(
        "core.bounds:over_components",
        "torch.where(weights > 0, weights * value, 0).sum(-2)",
        "torch.where(weights > 0, weights * value, 0).mean(-2)",
    ),
    Mutant(
        "core.bounds:log_over_components", "log_value + torch.where(active, weights, 1).log()", "log_value"
    ),
    Mutant(
        "core.bounds:log_over_components",
        "log_value + torch.where(active, weights, 1).log()",
        "log_value - torch.where(active, weights, 1).log()",
    ),
    Mutant(
        "core.bounds:log_over_components",
        "torch.where(any_active, torch.where(any_active, shifted, 0).logsumexp(0), 0)",
        "shifted.logsumexp(0)",
    ),
    # ---- core.recompute ----
    Mutant("core.recompute:_Selective.backward", "len(size) * size", "size"),
    Mutant("core.recompute:_Selective.backward", "torch.finfo(size.dtype).eps * total", "0.01 * total"),
    Mutant(
        "core.recompute:_Selective.backward",
        "len(size) * size > torch.finfo(size.dtype).eps * total",
        "size > 0",
    ),
    Mutant(
        "core.recompute:_Selective.backward",
        "(len(size) * size > torch.finfo(size.dtype).eps * total) | ~total.isfinite()",
        "len(size) * size > torch.finfo(size.dtype).eps * total",
    ),
    Mutant("core.recompute:_Selective.backward", "each.abs()", "each"),
    Mutant(
        "core.recompute:_Selective.backward",
        "each.index_select(0, chunk)",
        "torch.ones_like(chunk, dtype=each.dtype)",
    ),
    Mutant(
        "core.recompute:_Selective.backward",
        "to_latents.index_copy_(0, chunk, first)",
        "to_latents.index_copy_(0, chunk, 2 * first)",
    ),
    Mutant(
        "core.recompute:_Selective.backward", "total_gradient += gradient", "total_gradient.copy_(gradient)"
    ),
    Mutant("core.recompute:_Selective.backward", "rows.index_select(0, chunk)", "rows[: len(chunk)]"),
    Mutant("core.recompute:_Selective.backward", "ctx.autocast", "torch.enable_grad()"),
    Mutant(
        "core.recompute:_autocast",
        "torch.autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), cache_enabled=False)",
        "torch.autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))",
        harmless="torch 2.13 caches nothing that was cast without a graph; the package allows older versions",
    ),
    Mutant(
        "core.recompute:rows_apart",
        "network.training and isinstance(network, _DEPEND_ON_THE_BATCH)",
        "isinstance(network, _DEPEND_ON_THE_BATCH)",
    ),
    Mutant(
        "core.recompute:rows_apart",
        "known and not hooked and not dependent and all(map(rows_apart, network.children()))",
        "known and not hooked and all(map(rows_apart, network.children()))",
    ),
    Mutant(
        "core.recompute:rows_apart",
        "known and not hooked and not dependent and all(map(rows_apart, network.children()))",
        "known and not dependent and all(map(rows_apart, network.children()))",
    ),
    Mutant(
        "core.recompute:rows_apart",
        "known and not hooked and not dependent and all(map(rows_apart, network.children()))",
        "not hooked and not dependent and all(map(rows_apart, network.children()))",
    ),
    Mutant("core.recompute:rows_apart", "all(map(rows_apart, network.children()))", "True"),
    Mutant(
        "core.recompute:share_that_counts",
        "(log_weight.softmax(0) > torch.finfo(log_weight.dtype).eps) & differ",
        "log_weight.softmax(0) > torch.finfo(log_weight.dtype).eps",
    ),
    Mutant("core.recompute:share_that_counts", "log_weight.softmax(0)", "log_weight.softmax(-1)"),
    # ---- core.aggregate ----
    Mutant("core.aggregate:singles", "eye[:, :, None] & mask", "eye[:, :, None] | ~mask & mask"),
    Mutant(
        "core.aggregate:powerset", "(~member[:, :, None] | mask).all(1)", "(member[:, :, None] & mask).any(1)"
    ),
    Mutant("core.aggregate:powerset", "complete[:, None]", "mask"),
    Mutant("core.aggregate:powerset", "range(1, E + 1)", "range(1, E)"),
    Mutant("core.aggregate:powerset", "range(1, E + 1)", "range(2, E + 1)"),
    Mutant("core.aggregate:random_subsets", "(fair >= 0.5) & mask", "fair >= 0.5"),
    Mutant("core.aggregate:random_subsets", "(fair >= 0.5) & mask", "(fair >= 0.4) & mask"),
    Mutant("core.aggregate:random_subsets", "range(20)", "range(1)"),
    Mutant("core.aggregate:random_subsets", "2 * fair % 1", "1 - fair"),
    Mutant("core.aggregate:random_sizes", "mask.sum(0) - int(proper)", "M"),
    Mutant(
        "core.aggregate:random_sizes",
        "(u * (mask.sum(0) - int(proper))).floor() + 1",
        "(u * mask.sum(0)).floor()",
    ),
    Mutant("core.aggregate:random_sizes", "torch.where(mask, score, 2.0)", "score"),
    Mutant("core.aggregate:random_sizes", "rank < size[:, None]", "rank <= size[:, None]"),
    Mutant("core.aggregate:random_sizes", "(rank < size[:, None]) & mask", "rank < size[:, None]"),
    Mutant("core.aggregate:product_of_experts", "experts.scale.pow(-2)", "experts.scale.pow(-1)"),
    Mutant("core.aggregate:product_of_experts", "experts.scale.pow(-2)", "experts.scale.pow(2)"),
    Mutant("core.aggregate:product_of_experts", "precision * experts.loc", "experts.loc"),
    Mutant("core.aggregate:product_of_experts", "pull + strength * prior.loc", "pull"),
    Mutant(
        "core.aggregate:product_of_experts",
        "total + strength",
        "total + strength * include.sum(1)[..., None]",
    ),
    Mutant(
        "core.aggregate:product_of_experts",
        "torch.where(membership.any(1)[..., None], total, 1)",
        "total + 1e-09",
    ),
    Mutant("core.aggregate:product_of_experts", "total.rsqrt()", "total.reciprocal()"),
    Mutant("core.aggregate:uniform_weights", "membership.any(1)", "membership.all(1)"),
    Mutant("core.aggregate:uniform_weights", "membership.any(1)", "membership.sum(1)"),
    Mutant("core.aggregate:uniform_weights", "active.sum(0).clamp(min=1)", "len(active)"),
    Mutant("core.aggregate:uniform_weights", "active / active.sum(0).clamp(min=1)", "active"),
    Mutant(
        "core.aggregate:mixture_of_products",
        "product_of_experts(experts.z, here, prior)",
        "product_of_experts(experts.z, here)",
    ),
    Mutant(
        "core.aggregate:geometric_mean",
        "product.scale * count.clamp(min=1).sqrt()[..., None]",
        "product.scale",
        by="models/test_mmjsd.py::test_mmjsd",
    ),
    Mutant(
        "core.aggregate:consensus",
        "(members - 1) * correlation",
        "members * correlation",
        by="models/test_codevae.py::test_codevae",
    ),
    Mutant(
        "core.aggregate:hoelder_pool",
        "overlap + math.log(2)",
        "overlap",
        by="models/test_hellinger.py::test_the_pool_is_the_square_of_the_sum_of_roots_by_quadrature",
    ),
    Mutant(
        "core.aggregate:moment_matched",
        "q.components.scale.square() + (q.components.loc - loc).square()",
        "q.components.scale.square()",
        by="models/test_hellinger.py::test_hellinger",
    ),
    Mutant("core.aggregate:barycentre", "members + 1", "members"),
    Mutant("core.aggregate:barycentre", "scale + prior.scale", "scale"),
    # ---- core.distributions ----
    Mutant("core.distributions:softplus_scale", "raw + math.log(math.e - 1)", "raw"),
    Mutant("core.distributions:exp_scale", "(raw / 2).exp()", "raw.exp()"),
    Mutant("core.distributions:exp_scale", "_FLOOR + (1 - _FLOOR) * (raw / 2).exp()", "(raw / 2).exp()"),
    Mutant(
        "core.distributions:Diagonal.columns",
        "self.log_peak + self.rate * self.distance(x)",
        "self.rate * self.distance(x)",
    ),
    Mutant("core.distributions:softmax_scale", "(1 - _FLOOR) * raw.shape[-1]", "1 - _FLOOR"),
    Mutant("core.distributions:softmax_scale", "raw.softmax(-1)", "raw.softmax(0)"),
    Mutant("core.distributions:Diagonal.log_prob", "self.distance(x).sum(-1)", "self.distance(x).mean(-1)"),
    Mutant(
        "core.distributions:Diagonal.kl", "self.kl_columns(other).sum(-1)", "self.kl_columns(other).mean(-1)"
    ),
    Mutant("core.distributions:Diagonal.rsample", "self.scale", "self.scale.square()"),
    Mutant("core.distributions:Diagonal.detach", "self.scale.detach()", "self.scale"),
    Mutant("core.distributions:Diagonal.detach", "self.loc.detach()", "self.loc"),
    Mutant("core.distributions:Normal.log_peak", "-self.scale.log()", "torch.zeros_like(self.scale)"),
    Mutant(
        "core.distributions:Normal.log_peak", "-self.scale.log() - 0.5 * _LOG_TWO_PI", "-self.scale.log()"
    ),
    Mutant("core.distributions:Normal.kl_columns", "self.scale / other.scale", "other.scale / self.scale"),
    Mutant(
        "core.distributions:Normal.kl_columns",
        "(self.loc - other.loc) / other.scale",
        "(self.loc - other.loc) / self.scale",
    ),
    Mutant(
        "core.distributions:Normal.kl_columns",
        "0.5 * (ratio.square() + ((self.loc - other.loc) / other.scale).square() - 1) - ratio.log()",
        "0.5 * (ratio.square() + ((self.loc - other.loc) / other.scale).square() - 1) + ratio.log()",
    ),
    Mutant("core.distributions:Laplace.log_peak", "2 * self.scale", "self.scale"),
    Mutant("core.distributions:Laplace.kl_columns", "-distance / self.scale", "-distance / other.scale"),
    Mutant(
        "core.distributions:Laplace.kl_columns",
        "(overlap + distance) / other.scale - 1",
        "(overlap + distance) / other.scale",
    ),
    Mutant(
        "core.distributions:Mixture.mean",
        "(self.weights[..., None] * self.components.mean).sum(0)",
        "self.components.mean.mean(0)",
    ),
    Mutant(
        "core.distributions:mixture_log_prob",
        "torch.where((weights > 0) | ~(weights > 0).any(0), log_weights, -torch.inf)",
        "log_weights",
    ),
    Mutant(
        "core.distributions:mixture_log_prob",
        "components[v].log_prob(z) + log_weights[v]",
        "components[v].log_prob(z)",
    ),
    Mutant(
        "core.distributions:mixture_log_prob",
        "each[0] if len(weights) == 1 else each.logsumexp(0)",
        "each.mean(0)",
    ),
    Mutant("core.distributions:mixture_log_prob", "torch.where((weights > 0).any(0), total, 0)", "total"),
    Mutant(
        "core.distributions:Mixture.pick",
        "(choice, torch.arange(choice.shape[1], device=choice.device))",
        "(choice[:1].expand_as(choice), torch.arange(choice.shape[1], device=choice.device))",
    ),
    Mutant(
        "core.distributions:_InPieces.backward",
        "(each.detach() - total).exp() * gradient",
        "gradient",
        by="core/test_distributions.py::test_a_sum_of_densities_is_the_same_in_pieces",
    ),
    # ---- core.priors ----
    Mutant(
        "core.priors:MixturePrior.z",
        "self.logits.softmax(0)",
        "self.logits.detach().softmax(0)",
        by="models/test_cmvae.py::test_cmvae_is_the_port",
    ),
    # ---- core.modalities ----
    Mutant(
        "core.modalities:Modalities.members",
        "membership.any(1)",
        "membership[:, 0]",
    ),
    Mutant("core.modalities:placed", "not counted", "False"),
    Mutant(
        "core.modalities:Modalities._counted",
        "[row & some for row, some in zip(counted, decoded, strict=True)]",
        "[some for row, some in zip(counted, decoded, strict=True)]",
    ),
    Mutant("core.modalities:Modalities.latents", "self.columns[m]", "self.columns[0]"),
    # ---- core.vae ----
    Mutant(
        "core.vae:MultimodalVAE.bound_of",
        "estimate(self.objective, log_weight, draws or {}, beta)",
        "estimate(self.objective, log_weight, draws or {}, 1.0)",
    ),
    Mutant(
        "core.vae:MultimodalVAE.decode_members",
        "self.modalities.members(q.table)",
        "q.active[None, None]",
        by="models/test_mvae.py",
    ),
    Mutant(
        "core.vae:MultimodalVAE.draw_components",
        "q.observed[None].to(z.dtype)",
        "torch.ones_like(q.weights[:1])",
    ),
    Mutant("core.vae:MultimodalVAE.bound_of", "sum(others, start=first)", "first"),
    Mutant("core.vae:MultimodalVAE.bound_of", "sum(others, start=first)", "first - sum(others)"),
    Mutant(
        "core.vae:MultimodalVAE.bound_of",
        "estimate(self.objective, log_weight, draws or {}, beta)",
        "log_weight[0]",
    ),
    Mutant(
        "core.vae:MultimodalVAE.draw_components",
        "q.pick(q.choose(self.K))",
        "q.pick(q.choose(1).expand(self.K, -1))",
    ),
    Mutant("core.vae:MultimodalVAE.sampled_kl", "self.scored(q_w).columns(w)", "q_w.columns(w)"),
    Mutant(
        "core.vae:MultimodalVAE.sampled_kl",
        "torch.where(charged, self.scored(q_w).columns(w) - p_w.columns(w), 0)",
        "self.scored(q_w).columns(w) - p_w.columns(w)",
    ),
    Mutant(
        "core.vae:MultimodalVAE.sampled_kl",
        "self.scored(q_w).columns(w) - p_w.columns(w)",
        "p_w.columns(w) - self.scored(q_w).columns(w)",
    ),
    Mutant(
        "core.vae:MultimodalVAE.bound_of",
        "self.weighted(log_x) - beta * sum(others, start=first)",
        "self.weighted(log_x) - beta * first - sum(others)",
    ),
    Mutant("core.vae:MultimodalVAE.bound_of", "self.weighted(log_x)", "log_x.sum(0)"),
    Mutant(
        "core.vae:MultimodalVAE.bound_of",
        "self.weighted(log_x) - beta * sum(others, start=first)",
        "self.weighted(log_x) + beta * sum(others, start=first)",
    ),
    # ---- core.inference ----
    Mutant(
        "core.inference:Inference._defended", "log_q_w + self._log_q_z(q, z)", "log_q_w - self._log_q_z(q, z)"
    ),
    Mutant(
        "core.inference:Inference._defended",
        "torch.logaddexp(math.log1p(-share) + log_q, math.log(share) + log_p)",
        "torch.logaddexp(log_q, log_p)",
    ),
    Mutant(
        "core.inference:Inference._defended",
        "torch.logaddexp(math.log1p(-share) + log_q, math.log(share) + log_p)",
        "log_q",
    ),
    Mutant("core.inference:Inference._defended", "p_w.where(prior, q_w)", "q_w"),
    Mutant(
        "core.inference:Inference.draw_shared", "self._draw_z(q, K)", "self._draw_z(q, 1).expand(K, -1, -1)"
    ),
    Mutant("core.inference:Inference._draw_z", "torch.where(q.observed[:, None], z, from_prior)", "z"),
    # ---- models.vae ----
    Mutant("models.vae:VAE.bound", "self.scored(q_w).columns(w)", "q_w.columns(w)"),
    Mutant("models.vae:VAE.bound", "q_w.kl_columns(p_w)", "p_w.kl_columns(q_w)"),
    Mutant(
        "models.vae:VAE.bound",
        "self.scored(q_w).columns(w) - p_w.columns(w)",
        "self.scored(q_w).columns(w) + p_w.columns(w)",
    ),
    Mutant("models.vae:VAE.bound", "self.modalities.weigh(log_x)", "log_x"),
    Mutant("models.vae:VAE.bound", "warm * self.beta * kl_w", "self.beta * kl_w"),
    Mutant("models.vae:VAE.bound", "{w: self.owner == m}", "{w: None}"),
    Mutant(
        "models.vae:VAE.bound",
        "estimate(self.objective, log_weight[m], {w: self.owner == m}, warm * self.beta)",
        "estimate(self.objective, log_weight[m], {w: self.owner == m}, 1.0)",
    ),
    Mutant("models.vae:VAE.bound", "torch.stack(each).sum(0)", "torch.stack(each).mean(0)"),
    # ---- models.mmvae ----
    Mutant("models.mmvae:MMVAE.bound", "self.scored(q).log_prob(z)", "q.log_prob(z)"),
    Mutant("models.mmvae:MMVAE.bound", "self.scored(q).log_prob(z)", "self.scored(q).components.log_prob(z)"),
    Mutant(
        "models.mmvae:MMVAE.bound",
        "self.scored(q).log_prob(z) - self.prior.z().log_prob(z)",
        "self.scored(q).log_prob(z)",
    ),
    Mutant("models.mmvae:MMVAE._tight", "self.weighted(log_x)", "log_x.sum(0)"),
    Mutant(
        "models.mmvae:MMVAE._tight", "self.weighted(log_x) - beta * kl", "self.weighted(log_x) + beta * kl"
    ),
    Mutant("models.mmvae:MMVAE._tight", "self.weighted(log_x) - beta * kl", "self.weighted(log_x) - kl"),
    Mutant("models.mmvae:MMVAE.bound", "self.tight", "False"),
    Mutant(
        "models.mmvae:MMVAE._tight",
        "torch.where(q.active | ~q.observed, log_weight, -torch.inf)",
        "log_weight",
    ),
    Mutant(
        "models.mmvae:MMVAE._tight",
        "q.active | ~q.observed",
        "q.active",
        harmless="where nothing was observed, the draws are constants: no parameter is behind the NaN",
    ),
    Mutant(
        "models.mmvae:MMVAE._tight",
        "dreg(log_weight, {z: None}, beta, share)",
        "dreg(log_weight, {z: None}, beta)",
    ),
    # ---- models.mvae ----
    Mutant(
        "models.mvae:MVAE.bound",
        "[everything(experts.observed), singles(experts.observed), random_sizes(experts.observed, self.subsets)]",
        "[singles(experts.observed), random_sizes(experts.observed, self.subsets)]",
    ),
    Mutant(
        "models.mvae:MVAE.bound",
        "[everything(experts.observed), singles(experts.observed), random_sizes(experts.observed, self.subsets)]",
        "[everything(experts.observed), random_sizes(experts.observed, self.subsets)]",
    ),
    Mutant(
        "models.mvae:MVAE.bound",
        "mixture_of_products(experts, membership, self.p_z)",
        "mixture_of_products(experts, membership)",
    ),
    Mutant(
        "models.mvae:MVAE.posterior",
        "mixture_of_products(experts, everything(experts.observed), self.p_z)",
        "mixture_of_products(experts, everything(experts.observed))",
    ),
    Mutant("models.mvae:MVAE.bound", "warm * self.beta", "warm"),
    # ---- models.parts.elbos ----
    Mutant("models.parts.elbos:sum_of_elbos", "q.components.kl(model.p_z)", "model.p_z.kl(q.components)"),
    Mutant(
        "models.parts.elbos:sum_of_elbos", "model.weighted(log_x).mean(0)", "model.weighted(log_x).sum(0)"
    ),
    Mutant(
        "models.parts.elbos:sum_of_elbos",
        "torch.where(active, gamma * model.weighted(log_x).mean(0) - beta * kl, 0)",
        "torch.where(torch.ones_like(active), gamma * model.weighted(log_x).mean(0) - beta * kl, 0)",
    ),
    Mutant("models.parts.elbos:sum_of_elbos", "active = decodes(model, batch, q)", "active = q.active"),
    Mutant("models.crmvae:CRMVAE.bound", "active = decodes(self, batch, q)", "active = q.active"),
    Mutant("core.batch:agreeing", "rows[m] & given.flatten(1).any(1)", "rows[m]"),
    Mutant(
        "core.modality:ModalityNet.encoder_input",
        "features - self.centre",
        "features",
        by="core/test_missing.py",
    ),
    Mutant(
        "core.modality:ModalityNet.features",
        "torch.where(entries, features, self.centre)",
        "features",
        by="core/test_missing.py",
    ),
    Mutant("models.mopoe:MoPoE.posterior", "fixed_subsets(experts.observed)", "subsets(experts.observed)"),
    Mutant(
        "core.likelihoods.linear:squares",
        "best.index_select(0, rows)",
        "first.max()",
        by="core/test_likelihoods.py",
    ),
    Mutant(
        "models.parts.elbos:sum_of_elbos",
        "Bound(elbo.sum(0), terms | {'subsets': elbo[1:].sum(0).detach()})",
        "Bound(elbo.mean(0), terms | {'subsets': elbo[1:].sum(0).detach()})",
    ),
    Mutant(
        "models.parts.elbos:mean_of_elbos",
        '{"kl/z": kl_z, "kl/w": kl_w}',
        '{"kl/z": kl_z, "kl/w": -kl_w}',
        by="models/test_vcca.py::test_vcca_private",
    ),
    # ---- models.mopoe ----
    Mutant(
        "models.mopoe:MoPoE._mixture",
        "(q.membership == experts.mask).all(1)[..., None]",
        "q.membership.all(1)[..., None]",
    ),
    Mutant(
        "models.mopoe:MoPoE._mixture",
        "with_prior.where(full, q.components)",
        "q.components.where(full, with_prior)",
    ),
    Mutant(
        "models.mopoe:MoPoE.bound",
        "over_components(q.weights, q.components.kl(self.p_z))",
        "q.components.kl(self.p_z).mean(0)",
    ),
    Mutant("models.mopoe:MoPoE.bound", "warm * self.beta", "warm"),
    Mutant("models.mopoe:MoPoE.bound", "q_w.kl(p_w)", "p_w.kl(q_w)"),
    # ---- models.mmvaeplus ----
    Mutant(
        "models.mmvaeplus:MMVAEPlus.bound",
        "q_w.where(own, self._cross_w(q_w, p_w))",
        "self._cross_w(q_w, p_w).where(own, q_w)",
    ),
    Mutant(
        "models.mmvaeplus:MMVAEPlus.bound",
        "q_w.where(own, self._cross_w(q_w, p_w))",
        "q_w.where(torch.ones_like(own), self._cross_w(q_w, p_w))",
    ),
    Mutant("models.mmvaeplus:MMVAEPlus.bound", "own_x if self.detach_own else None", "None"),
    Mutant("models.mmvaeplus:MMVAEPlus.bound", "log_x.new_full((), self.own_weight)", "log_x.new_ones(())"),
    Mutant("models.mmvaeplus:MMVAEPlus._shares", "source.active & ~own_x", "source.active.expand_as(own_x)"),
    Mutant("models.mmvaeplus:MMVAEPlus._shares", "cross.sum(1, keepdim=True)", "cross.any(1, keepdim=True)"),
    Mutant("core.modalities:Modalities.log_likelihood", "z.detach()", "z"),
    Mutant("core.priors:ConditionalPrior.w", "softplus_scale(raw)", "raw.exp()"),
    Mutant("models.mmvaeplus:MMVAEPlus._cross_w", "self.cross == 'auxiliary'", "self.cross == 'prior'"),
    Mutant("models.mmvaeplus:MMVAEPlus.bound", "self.scored(q).log_prob(z)", "q.log_prob(z)"),
    Mutant("models.mmvaeplus:MMVAEPlus._counted", "self.cross == 'posterior'", "False"),
    Mutant("models.mmvaeplus:MMVAEPlus._counted", "self.cross == 'posterior'", "True"),
    Mutant(
        "models.mmvaeplus:MMVAEPlus.bound",
        "self.scored(q).log_prob(z)",
        "self.scored(q).components.log_prob(z)",
    ),
    Mutant(
        "models.mmvaeplus:MMVAEPlus.bound",
        "self.sampled_kl(qr_w, p_w, w, counted)",
        "self.sampled_kl(qr_w, self.r(p_w), w, counted)",
    ),
    Mutant("models.mmvaeplus:MMVAEPlus._counted", "own | batch.mask[self.owner].T", "torch.ones_like(own)"),
    Mutant(
        "models.mmvaeplus:MMVAEPlus._counted",
        "own | batch.mask[self.owner].T",
        "own & batch.mask[self.owner].T",
    ),
    Mutant(
        "models.mmvaeplus:MMVAEPlus.bound",
        "self.sampled_kl(qr_w, p_w, w, counted)",
        "self.sampled_kl(q_w, p_w, w, counted)",
    ),
    Mutant(
        "models.mmvaeplus:MMVAEPlus._counted",
        "own | batch.mask[self.owner].T if self.corrected else own",
        "own",
    ),
    Mutant("models.mmvaeplus:MMVAEPlus.bound", "{z: None, w: counted}", "{z: None, w: None}"),
    Mutant("models.mmvaeplus:MMVAEPlus.bound", "{z: None, w: counted}", "{z: None}"),
    Mutant("models.mmvaeplus:MMVAEPlus.bound", "{z: None, w: counted}", "{w: counted}"),
    Mutant("models.mmvaeplus:MMVAEPlus.bound", "warm * self.beta", "self.beta"),
    Mutant(
        "models.mmvaeplus:MMVAEPlus._one_expert",
        "q.choose(1)",
        "q.choose(1)[:, :1].expand(1, q.weights.shape[1])",
    ),
    Mutant(
        "models.mmvaeplus:MMVAEPlus.private",
        "q_w if self.private_prior == 'prior' else q_w.where(self.own(experts), self.r(p_w))",
        "q_w",
    ),
    # ---- models.jmvae ----
    Mutant("models.jmvae:JMVAE.bound", "q.components.kl(experts.z)", "experts.z.kl(q.components)"),
    Mutant(
        "models.jmvae:JMVAE.bound",
        '{"kl/z": kl_z[None], "kl/experts": self.alpha * to_experts[None]}',
        '{"kl/z": kl_z[None], "kl/experts": to_experts[None]}',
    ),
    Mutant(
        "models.jmvae:JMVAE.bound",
        '{"kl/z": kl_z[None], "kl/experts": self.alpha * to_experts[None]}',
        '{"kl/z": kl_z[None], "kl/experts": -self.alpha * to_experts[None]}',
    ),
    # ---- models.parts.joint ----
    Mutant(
        "models.parts.joint:JointNetwork.forward",
        "torch.stack(features).sum(0)",
        "torch.stack(features).mean(0)",
    ),
    Mutant("models.parts.joint:joint_or_product", "experts.observed.all(0)", "experts.observed.any(0)"),
    # ---- models.jnf ----
    Mutant(
        "models.jnf:JNF.bound",
        "self.weighted(log_x) - warm * self.beta * kl - flows",
        "self.weighted(log_x) - warm * self.beta * kl",
    ),
    Mutant("models.jnf:JNF.bound", "q.components.detach().log_prob(z.detach())", "q.components.log_prob(z)"),
    Mutant("models.jnf:JNF.log_product", "1 - experts.mask.sum(0)", "-1"),
    Mutant(
        "models.parts.flows:ConditionalFlow.log_prob",
        "expert.log_prob(base) + log_det",
        "expert.log_prob(base)",
    ),
    Mutant("models.parts.hmc:hmc", "found - value", "value - found"),
    Mutant("models.parts.hmc:hmc", "torch.where(moved, found, value)", "found"),
    # ---- models.setfusion ----
    Mutant(
        "models.setfusion:SetFusion.bound",
        "q.components[1].kl(q.components[0])",
        "q.components[0].kl(q.components[1])",
    ),
    Mutant("models.setfusion:SetFusion.bound", "[members, ~members]", "[~members, members]"),
    Mutant(
        "models.setfusion:_Fusion.forward",
        "torch.where(member[..., None], self.norm(hidden), 0)",
        "self.norm(hidden)",
    ),
    # ---- models.telbo ----
    Mutant(
        "models.telbo:TELBO.bound",
        "[1.0] + [self.gamma] * len(observed)",
        "[self.gamma] + [1.0] * len(observed)",
    ),
    Mutant("models.telbo:TELBO.bound", "observed.all(0) | (observed.sum(0) > 1)", "observed.all(0)"),
    Mutant("models.telbo:TELBO.bound", "warm * self.beta", "self.beta"),
    # ---- models.mmjsd ----
    Mutant("models.mmjsd:MMJSD._divergence", "self.p_z.kl(f) + each.sum(0)", "each.sum(0)"),
    Mutant("models.mmjsd:MMJSD._divergence", "experts.mask.sum(0)", "len(experts.mask)"),
    Mutant("models.mmjsd:MMJSD._divergence", "experts.z.kl(f)", "f.kl(experts.z)"),
    # ---- models.mvtcae ----
    Mutant("models.mvtcae:MVTCAE._share", "1 - self.alpha / count", "1 - self.alpha + 0 * count"),
    Mutant(
        "models.mvtcae:MVTCAE.bound",
        "(1 - self.alpha) * kl + self.alpha * to_experts",
        "self.alpha * kl + (1 - self.alpha) * to_experts",
    ),
    Mutant("models.mvtcae:MVTCAE._share", "part if m in self.encoded else torch.ones_like(part)", "part"),
    # ---- models.crmvae ----
    Mutant("models.crmvae:CRMVAE.bound", "q.components[0].kl(experts.z)", "experts.z.kl(q.components[0])"),
    Mutant("models.crmvae:CRMVAE.bound", "experts.mask.sum(0)", "len(experts.mask)"),
    Mutant("models.crmvae:CRMVAE.bound", "likelihood / 2", "likelihood"),
    # ---- models.dmvae ----
    Mutant("models.dmvae:DMVAE.bound", "self.total_correlation - 1", "self.total_correlation"),
    Mutant(
        "models.dmvae:DMVAE._correlations",
        "whole.logsumexp(-2)[..., 0] - parts.logsumexp(-2).sum(-1)",
        "whole.logsumexp(-2)[..., 0] + parts.logsumexp(-2).sum(-1)",
    ),
    Mutant(
        "models.dmvae:DMVAE.bound",
        "1 if self.variant == 'paper' else experts.mask.sum(0)",
        "1 if True or self.variant == 'paper' else experts.mask.sum(0)",
    ),
    # ---- models.nexus ----
    Mutant("models.nexus:Nexus.bound", "inferred.detach()", "inferred"),
    Mutant("models.nexus:Nexus.__init__", "math.sqrt(2 * gamma)", "math.sqrt(gamma)"),
    Mutant("models.nexus:Nexus._kept", "not self.training or not self.drop", "not self.drop"),
    # ---- models.mmvm ----
    Mutant(
        "models.mmvm:MMVM._mixture_kl",
        "mixed.log_prob(w_m)",
        "mixed.detach().log_prob(w_m)",
        by="models/test_gradients.py::test_the_gradient_is_the_values_slope[mmvm-]",
    ),
    Mutant("models.mmvm:MMVM._pairwise_kl", "(1 - share) * among", "among"),
    Mutant(
        "models.mmvm:MMVM._pairwise_kl",
        "share * q.kl(type(q).unit(tuple(q.loc.shape), q.loc))",
        "q.kl(type(q).unit(tuple(q.loc.shape), q.loc))",
    ),
    # ---- models.codevae ----
    Mutant("models.codevae:CoDEVAE._log_pi", "logits - total", "logits"),
    Mutant("models.codevae:CoDEVAE.bound", "elbo + self.entropy * entropy", "elbo - self.entropy * entropy"),
    Mutant(
        "models.codevae:CoDEVAE.bound",
        "over_components(q.weights, -self._log_pi(q.membership, z))",
        "over_components(q.weights.detach(), -self._log_pi(q.membership, z))",
        by="models/test_gradients.py::test_the_gradient_is_the_values_slope[code-vae-]",
    ),
    # ---- models.scmm ----
    Mutant("models.scmm:ScMM.bound", "q.components.kl(p)", "p.kl(q.components)"),
    Mutant("models.scmm:ScMM.bound", "warm * self.beta", "warm"),
    # ---- models.cmvae ----
    Mutant("models.cmvae:CMVAE._criterion", "self.beta * value", "value"),
    Mutant(
        "models.cmvae:CMVAE._criterion",
        "log_joint.logsumexp(0) - self._prior.logits.log_softmax(0)[kept].logsumexp(0)",
        "log_joint.logsumexp(0)",
    ),
    Mutant(
        "models.cmvae:CMVAE.prune",
        "min(values, key=lambda count: values[count])",
        "max(values, key=lambda count: values[count])",
    ),
    # ---- models.idmvae ----
    Mutant(
        "models.idmvae:IDMVAE.regularisers",
        "2 * self._contrast(mean[rows], experts.z.loc[j, rows])",
        "self._contrast(mean[rows], experts.z.loc[j, rows])",
    ),
    Mutant("models.idmvae:IDMVAE._encode_mixed", "w.roll(1, 0)", "w"),
    Mutant(
        "models.idmvae:IDMVAE.bound",
        "value - self.cross_view * c - self.augmentation * g",
        "value - self.cross_view * c + self.augmentation * g",
    ),
    # ---- models.hellinger ----
    Mutant(
        "models.hellinger:Hellinger.posterior",
        "moment_matched(hoelder_pool(experts))",
        "hoelder_pool(experts)",
    ),
    # ---- models.holder ----
    Mutant("models.holder:Hoelder.bound", "self.own(q)", "self.own(experts)"),
    Mutant(
        "models.holder:Hoelder.bound",
        "self.sampled_kl(q_w, p_w, w, own)",
        "self.sampled_kl(q_w, p_w, w, torch.ones_like(own))",
    ),
    Mutant(
        "models.holder:Hoelder._given",
        "q_w.scale * softplus_scale(torch.cat(factors, -1))",
        "q_w.scale + softplus_scale(torch.cat(factors, -1))",
    ),
    # ---- models.composed ----
    Mutant(
        "models.composed:Composed.bound", "torch.ones_like(own) if self.cross == 'posterior' else own", "own"
    ),
    Mutant("models.composed:Composed.bound", "self.scored(q).log_prob(z)", "q.log_prob(z)"),
    Mutant("models.composed:Composed.bound", "{z: None, w: charged}", "{z: None}"),
    # ---- models.vcca ----
    Mutant(
        "models.vcca:VCCAPrivate.posterior",
        "everything(experts.observed)",
        "everything(experts.observed[:1])",
    ),
    Mutant("models.vcca:BiVCCA.posterior", "(self.mu, 1 - self.mu)", "(1 - self.mu, self.mu)"),
    Mutant("models.vcca:BiVCCA.posterior", "weights / torch.where(total > 0, total, 1)", "weights"),
    # ---- models.mfm ----
    Mutant("models.mfm:MFM.bound", "q.components.detach()", "q.components"),
    Mutant("models.mfm:MFM.bound", "q.components.detach().kl(phi)", "phi.kl(q.components.detach())"),
    Mutant("models.mfm:MFM._discrepancy", "(count - 1).clamp(min=1)", "count.clamp(min=1)"),
    Mutant("models.mfm:MFM._discrepancy", "2 * to_prior", "to_prior"),
    # ---- models.uhved ----
    Mutant("models.uhved:UHVED._divergences", "active & (membership != q.membership).any(1)", "active"),
    Mutant("models.uhved:UHVED._sums", "self._kl(q.components, q_A)", "self._kl(q_A, q.components)"),
    Mutant("models.uhved:UHVED.bound", "to_prior + to_subsets", "to_prior - to_subsets"),
    # ---- models.contrastive ----
    Mutant(
        "models.contrastive:Contrastive.contrast",
        "0.5 * (mixed.logsumexp(0) + reverse.logsumexp(0))",
        "mixed.logsumexp(0) + reverse.logsumexp(0)",
    ),
    Mutant("models.contrastive:Contrastive.contrast", "line.roll(s)", "line.roll(-s)"),
    Mutant(
        "models.contrastive:Contrastive.contrast",
        "0.5 * log_over_components(weights, iwae(2 * log_weight))",
        "log_over_components(weights, iwae(2 * log_weight))",
    ),
    Mutant("models.contrastive:Contrastive.contrast", "c / counted[rows]", "c"),
    Mutant("models.contrastive:Contrastive.bound", "value + self.gamma * c", "value - self.gamma * c"),
    Mutant("models.contrastive:Contrastive._log_weights", "q.log_prob(z) + q_w.log_prob(w)", "q.log_prob(z)"),
    # ---- models.meme ----
    Mutant("models.meme:MEME.bound", "(log_t - log_q_t).exp().detach()", "(log_t - log_q_t).exp()"),
    Mutant("models.meme:MEME.bound", "math.log(_FRESH + 1)", "math.log(_FRESH)"),
    Mutant("models.meme:MEME.bound", "log_q - p.log_prob(z[:K])", "p.log_prob(z[:K]) - log_q"),
    Mutant(
        "models.meme:MEME._pseudo_log_prob",
        "sum_log_prob(experts, z[:, v, index]) - math.log(self.pseudo)",
        "sum_log_prob(experts, z[:, v, index])",
    ),
    # ---- models.deepimv ----
    Mutant("models.deepimv:DeepIMV.bound", "experts.observed & labels", "experts.observed"),
    Mutant("models.deepimv:DeepIMV.bound", "self.alpha * elbo[1:].sum(0)", "elbo[1:].sum(0)"),
    Mutant(
        "models.deepimv:DeepIMV.bound",
        "log_y - warm * self.beta * kl",
        "log_y + warm * self.beta * kl",
    ),
    # ---- models.relational ----
    Mutant("models.relational:Relational.bound", "q_w.kl_columns(p_w)", "p_w.kl_columns(q_w)"),
    Mutant(
        "models.relational:Relational._mixture",
        "mixture_of_products(experts._replace(z=self._relation(experts)), membership)",
        "mixture_of_products(experts._replace(z=self._relation(experts)), membership, self.p_z)",
    ),
    Mutant(
        "models.relational:Relational._relation",
        "mean[:, span]",
        "mean[:, span].detach()",
        by="models/test_gradients.py::test_the_gradient_is_the_values_slope[relational-]",
    ),
    # ---- models.hmvae ----
    Mutant("models.hmvae:HMVAE.private", "expert + prior", "expert"),
    Mutant("models.hmvae:HMVAE.private", "product.where(self.own(experts), p_w)", "product"),
    Mutant(
        "models.hmvae:HMVAE.posterior",
        "mixture_of_products(experts, everything(experts.observed), self.p_z)",
        "mixture_of_products(experts, everything(experts.observed))",
    ),
    # ---- metrics ----
    Mutant(
        "metrics.likelihood:_summary",
        "error.square().sum().sqrt() / len(error)",
        "error.mean()",
        by=LIKELIHOOD,
    ),
    Mutant(
        "metrics.likelihood:_summary",
        "error.square().sum().sqrt() / len(error)",
        "error.square().mean().sqrt()",
        by=LIKELIHOOD,
    ),
    Mutant("metrics.likelihood:_summary", "effective.median()", "effective.mean()", by=LIKELIHOOD),
    Mutant(
        "metrics.likelihood:_ratio",
        "torch.hypot(joint.standard_error, given.standard_error)",
        "joint.standard_error",
        by=LIKELIHOOD,
    ),
    Mutant("metrics.prediction:prediction", "shares.mean(0)", "shares[0]", by="metrics/test_prediction.py"),
    Mutant(
        "metrics.generation:conditional", "batch.observe(*members)", "batch", by="metrics/test_coherence.py"
    ),
    Mutant("metrics.generation:_shared", "name not in members", "True", by="metrics/test_coherence.py"),
    Mutant("metrics.reading:compared", "truth[key] >= 0", "truth[key] > -9", by="metrics/test_missing.py"),
    Mutant("metrics.coherence:_free", "targets < 2", "False", by="metrics/test_missing.py"),
    Mutant(
        "metrics.coherence:_given",
        "{name: ~own for (name, own) in stated.items()}",
        "{name: own for (name, own) in stated.items()}",
        by="metrics/test_attributes.py",
    ),
    Mutant(
        "metrics.coherence:_Agreement.add",
        "(read == most) | ~states",
        "read == most",
        by="metrics/test_attributes.py",
    ),
    Mutant(
        "metrics.reading:compared",
        "(answer >= 0) & (truth[key] >= 0) & stated[key]",
        "(answer >= 0) & (truth[key] >= 0)",
        by="metrics/test_attributes.py",
    ),
    Mutant(
        "metrics.attributes:entropies",
        "2 * total.squeeze(-1)",
        "total.squeeze(-1)",
        by="metrics/test_attributes.py",
    ),
    Mutant(
        "metrics.attributes:disagreements",
        "counts * (counts - 1)",
        "counts * counts",
        by="metrics/test_attributes.py",
    ),
    Mutant(
        "metrics.attributes:references",
        "known[:, seen] == own[seen]",
        "known[:, seen] >= 0",
        by="metrics/test_attributes.py",
    ),
    Mutant(
        "metrics.attributes:_one",
        "~given & complete & (data.sum(1) > 1)",
        "complete & (data.sum(1) > 1)",
        by="metrics/test_attributes.py",
    ),
    Mutant(
        "metrics.intervals:_linearised",
        "some - ratio * all_of",
        "some - ratio",
        by="metrics/test_intervals.py",
    ),
    Mutant(
        "metrics.intervals:wilson", "square / (4 * count)", "square / count", by="metrics/test_intervals.py"
    ),
    Mutant("data.sets.shapes:combined", "~held", "~held | held", by="data/test_shapes.py"),
    Mutant(
        "data.sets.shapes_grammar:_article",
        "word[0] in 'aeiou'",
        "word[0] in 'aeou'",
        by="data/test_shapes.py",
    ),
    Mutant(
        "metrics.coherence:unconditional",
        "context.seed('coherence/unconditional', stream)",
        "context.seed('coherence/unconditional')",
        by="metrics/test_streams.py",
    ),
    Mutant(
        "metrics.judge_training:Heads.truth",
        "torch.where(labels.known(y), torch.searchsorted(self.classes, y), missing)",
        "torch.searchsorted(self.classes, y)",
        by="metrics/test_missing.py",
    ),
    Mutant(
        "metrics.judge_training:Heads.truth",
        "torch.where(said[attribute].cpu(), y, missing) if attribute in said else y",
        "y",
        by="metrics/test_attributes.py",
    ),
    Mutant(
        "metrics.judges:measured",
        "seen[-1] & known_labels(test.labels).cpu()",
        "seen[-1]",
        by="metrics/test_missing.py",
    ),
    Mutant(
        "metrics.latents:_questions",
        "labels.known(train.labels).cpu()[rows]",
        "torch.ones(len(rows), dtype=torch.bool)",
        by="metrics/test_missing.py",
    ),
    Mutant(
        "metrics.latents:_questions",
        "labels.known(test.labels).cpu()[rows_test]",
        "torch.ones(len(rows_test), dtype=torch.bool)",
        by="metrics/test_missing.py",
    ),
    Mutant("metrics.latents:usage", "exact and by_formula", "by_formula", by="metrics/test_latents.py"),
    Mutant(
        "metrics.latents:_divergence",
        "(q.active.sum(0) == 1).all()",
        "(q.active.sum(0) == 1).any()",
        by="metrics/test_latents.py",
    ),
    Mutant(
        "metrics.reconstruction:within_classes",
        "labels.classes(numbers)",
        "torch.unique(numbers)",
        by="metrics/test_missing.py",
    ),
    Mutant(
        "metrics.quality:_Side.floor",
        "torch.randperm(len(rows), generator=torch.Generator().manual_seed(fold_in(self.seed, 'floor')))",
        "torch.arange(len(rows))",
        by="metrics/test_quality.py",
    ),
    Mutant(
        "metrics.quality:_Side.look",
        "images.to(self.device)",
        "images.to(self.device).clamp(0, 1)",
        by="metrics/test_quality.py",
    ),
    Mutant(
        "metrics.quality:_fits_bytes",
        "low >= -_ROUNDING and high <= 1 + _ROUNDING",
        "True",
        by="metrics/test_quality.py",
    ),
    # ---- core.fitted ----
    Mutant("core.fitted.mixture:_mixture", "matrices.sqrt()", "matrices", by="core/test_fitted.py"),
    Mutant(
        "core.fitted.flow:FittedFlow.fit",
        "prior.load_state_dict(state)",
        "prior.state_dict()",
        by="core/test_fitted.py",
    ),
    Mutant(
        "core.fitted.mixture:FittedMixture.given",
        "_log_density(first, white) + self.weights.double().log()",
        "0 * _log_density(first, white) + self.weights.double().log()",
        by="core/test_fitted_all.py",
    ),
    Mutant(
        "core.fitted.score:FittedScore.loss",
        "error.mean(-1) / (1 - share)",
        "error.mean(-1)",
        by="core/test_fitted_all.py",
    ),
    Mutant(
        "core.fitted.diffusion:marginal",
        "-0.25 * t.square()",
        "-0.5 * t.square()",
        by="core/test_fitted_all.py",
    ),
    Mutant(
        "core.fitted.score_net:ScoreNet.forward",
        "self.last(h) - columns_of(s, self.blocks) * x",
        "self.last(h) + columns_of(s, self.blocks) * x",
        by="core/test_fitted_all.py",
    ),
    Mutant(
        "core.fitted.score:FittedScore.prediction",
        "torch.where(observed, 0, t)",
        "t.expand(*observed.shape)",
        by="core/test_fitted_all.py",
    ),
    Mutant(
        "core.fitted.score:FittedScore.prediction",
        "f + self.guidance * (f - self._network(without, torch.where(observed, 1, t), known))",
        "f + self.guidance * (self._network(without, torch.where(observed, 1, t), known) - f)",
        by="core/test_fitted_all.py",
    ),
    Mutant(
        "core.separate:infer_each",
        "batch.observe(name)",
        "batch",
        by="core/test_separate.py",
    ),
    Mutant(
        "metrics.context:complete_rows",
        "rows[private].all(0) & rows.any(0)",
        "rows.any(0)",
        by="core/test_fitted_all.py",
    ),
    # ---- report ----
    Mutant(
        "report.measures:_panel",
        "-unit['kl'][column]",
        "unit['kl'][column]",
        by="report/test_report.py::test_the_bars_of_a_divergence_are_in_its_order",
    ),
    # ---- data, training and files ----
    Mutant("data.hiding:remaining", "(stays & seen).any(0)", "stays.any(0)", by="data/test_data.py"),
    Mutant(
        "data.hiding:remaining",
        "lot.argmax(0, keepdim=True)",
        "lot.argmin(0, keepdim=True)",
        by="data/test_data.py",
    ),
    Mutant(
        "data.multimodal:MultimodalData.complete",
        "gap.flatten(1).all(1)",
        "gap.flatten(1).any(1)",
        by="data/test_data.py",
    ),
    Mutant(
        "data.multimodal:MultimodalData.take", "not self._gaps[index].any()", "True", by="data/test_data.py"
    ),
    Mutant(
        "data.multimodal:MultimodalData.rows",
        "bool((rows.diff() == 1).all())",
        "True",
        by="data/test_data.py",
    ),
    Mutant(
        "data.multimodal:MultimodalData.with_labels_as",
        "self.labels >= 0",
        "self.labels >= -1",
        by="data/test_data.py",
    ),
    Mutant(
        "data.digest:digest_of",
        "stored.entries.items()",
        "{}.items()",
        by="data/test_data.py",
    ),
    Mutant(
        "data.multimodal:MultimodalData.select", "self.scale.items()", "{}.items()", by="data/test_data.py"
    ),
    Mutant(
        "utils.arrays:scaled",
        "torch.promote_types(x.dtype, torch.float32)",
        "x.dtype",
        by="data/test_data.py",
    ),
    Mutant("data.splits:drawn", "abs(sum(shares.values()) - 1) > 1e-06", "False", by="data/test_data.py"),
    Mutant("data.splits:check_splits", "times > 1", "times > 2", by="data/test_data.py"),
    Mutant("data.splits:check_straddling", "group in home", "False", by="data/test_data.py"),
    Mutant(
        "data.splits:_deal",
        "sizes[order].cumsum() - sizes[order] / 2",
        "sizes[order].cumsum()",
        by="data/test_data.py",
    ),
    Mutant(
        "data.checks:check_labels",
        "np.where(observed, given.astype(np.int64), -1)",
        "given.astype(np.int64)",
        by="data/test_data.py",
    ),
    Mutant(
        "data.checks:check_precision",
        "error > _LOST * spread",
        "error > 1000 * spread",
        by="data/test_data.py",
    ),
    Mutant(
        "data.checks:row_numbers",
        "0 <= int(rows.min()) <= int(rows.max()) < count",
        "int(rows.max()) < count",
        by="data/test_data.py",
    ),
    Mutant("training.schedules:warmth", "step + 1", "step", by="training/test_schedule.py"),
    Mutant(
        "training.schedules:rate",
        "math.pi * (place - flat)",
        "math.pi * place",
        by="training/test_schedule.py",
    ),
    Mutant(
        "training.loop:_Training._step",
        "fold_in(train.seed, 'step', state.step, self.ranks.rank)",
        "fold_in(train.seed, 'step', 0, self.ranks.rank)",
        by="training/test_train.py",
    ),
    Mutant(
        "training.loop:_Training._judge",
        "bound > state.best",
        "bound < state.best",
        by="training/test_train.py::test_patience_keeps_the_best_weights_even_if_it_never_ran_out",
    ),
    Mutant(
        "training.loop:_Training._finish",
        "self.model.load_state_dict(state.kept)",
        "None",
        by="training/test_train.py::test_early_stopping_keeps_the_best_weights",
    ),
    Mutant(
        "training.loop:_Training._check_weights",
        "name not in self.constants",
        "True",
        by="training/test_failures.py",
    ),
    Mutant(
        "core.noise:_numbers",
        "slice(own.rank, None, own.world)",
        "slice(0, None, own.world)",
        by="core/test_noise.py",
    ),
    Mutant(
        "training.resume:with_other_processes",
        "min(seen // wanted, per_epoch - 1)",
        "0",
        by="training/test_processes.py",
    ),
    Mutant(
        "training.store:Store.restore",
        "torch.zeros_like(x)",
        "x",
        by="training/test_processes.py::test_a_run_resumes_with_another_number_of_processes",
    ),
    Mutant(
        "training.validation:validate",
        "several.summed(sums)",
        "sums",
        by="training/test_processes.py",
    ),
    Mutant(
        "training.validation:validate",
        "totals if sums is None else sums + totals",
        "totals",
        by="training/test_train.py",
    ),
    Mutant(
        "training.validation:validate",
        "torch.set_rng_state(state)",
        "None",
        by="training/test_train.py::test_validation_neither_sees_training_rows_nor_leaves_a_trace",
    ),
    Mutant(
        "training.state:State.add",
        "self.sums['count'] += size",
        "self.sums['count'] += 1",
        by="training/test_schedule.py",
    ),
    Mutant("training.state:State.restore", "kept['elapsed']", "0.0", by="training/test_train.py"),
    Mutant(
        "training.checkpoints:Checkpoints.save",
        "[file for file in files if file <= path]",
        "files",
        by="training/test_checkpoints.py",
    ),
    Mutant(
        "training.checkpoints:Checkpoints.save",
        "{*files} - {*kept}",
        "{*files} - {*files}",
        by="training/test_checkpoints.py",
    ),
    Mutant(
        "training.checkpoints:Checkpoints._newest",
        "file.name != pointed",
        "False",
        by="training/test_checkpoints.py",
    ),
    Mutant(
        "training.checkpoints:Checkpoints._newest",
        "name not in any_value",
        "False",
        by="training/test_failures.py",
    ),
    Mutant(
        "training.checkpoints:restore_optimizer",
        "tensor.clone()",
        "tensor",
        by="training/test_checkpoints.py",
    ),
    Mutant(
        "training.store:Store.restore",
        "self.directory.cut_history(state.step)",
        "None",
        by="training/test_train.py",
    ),
    Mutant(
        "training.store:Store.finish",
        "torch.equal(now[name], x)",
        "True",
        by="training/test_train.py::test_an_evaluation_goes_with_the_weights_it_spoke_of_and_only_then",
    ),
    Mutant(
        "training.directory:RunDirectory.check_new",
        "run.checkpoints.is_symlink()",
        "False",
        by="training/test_directory.py",
    ),
    Mutant(
        "training.directory:RunDirectory._recorded",
        "name == os.path.basename(name)",
        "True",
        by="training/test_directory.py",
    ),
    Mutant(
        "training.directory:RunDirectory.append_history",
        "file.read() in (b'', b'\\n')",
        "True",
        by="training/test_directory.py",
    ),
    Mutant(
        "training.directory:RunDirectory.cut_history",
        "record.get('step', step) <= step",
        "record.get('step', step) < step",
        by="training/test_directory.py",
    ),
    Mutant(
        "training.resume:check_same",
        "failed and key in _REMEDIES",
        "key in _REMEDIES",
        by="training/test_train.py::test_resuming_with_other_settings_is_refused",
    ),
    Mutant(
        "training.resume:check_same",
        "digest != kept['data']",
        "False",
        by="training/test_train.py::test_resume_notices_other_values_and_other_modalities",
    ),
    Mutant(
        "training.resume:_modalities",
        "got != expected",
        "sorted(got) != sorted(expected)",
        by="training/test_train.py::test_resume_notices_other_values_and_other_modalities",
    ),
    Mutant(
        "models.bundles:check_import",
        "module.startswith(f'{name}.')",
        "module.startswith(name)",
        by="models/test_bundles.py",
    ),
    Mutant(
        "models.bundles:load_model",
        "model.to(there).eval()",
        "model.to(there)",
        by="models/test_bundles.py",
    ),
    Mutant(
        "models.bundles:describe_modality", "modality.entries or None", "None", by="models/test_bundles.py"
    ),
    Mutant("models.bundles:_at_most", "left < 0", "False", by="models/test_bundles.py"),
    Mutant("models.bundles:_check_state", "here.shape != there.shape", "False", by="models/test_bundles.py"),
    Mutant("utils.files:atomic", "sweep(path.parent)", "None", by="utils/test_files.py"),
    Mutant(
        "utils.files:load_tensors",
        "digest.hexdigest().encode() != data[at:at + len(_BLANK)]",
        "False",
        by="utils/test_files.py",
    ),
    Mutant("utils.files:_header", "version > FORMAT", "False", by="utils/test_files.py"),
    Mutant("utils.files:read_bytes", "stat.S_ISREG(state.st_mode)", "True", by="utils/test_files.py"),
    Mutant("utils.files:parsed", "len(found) < len(pairs)", "False", by="utils/test_files.py"),
    Mutant("utils.files:write_npz", "f'{name}.npy' in arrays", "False", by="utils/test_files.py"),
    Mutant(
        "utils.files:finite_json",
        "value if math.isfinite(value) else None",
        "value",
        by="utils/test_files.py",
    ),
    # ---- imputation: time to event ----
    *(
        Mutant(f"imputation.targets.cox:{where}", old, new, by="imputation/targets/test_cox.py")
        for where, old, new in (
            ("Partial._below", "at_risk[self.group] - self.share * dying[self.group]", "at_risk[self.group]"),
            ("Partial.slopes", "self.share[:, None] * dying[self.group]", "0 * dying[self.group]"),
            ("Partial.__init__", "(~given.event, -given.time)", "(~given.event, given.time)"),
            ("cox", "found.information + penalty * np.eye(len(beta))", "found.information"),
            ("breslow", "np.cumsum(events[some] / at_risk[some])", "events[some] / at_risk[some]"),
            ("Curve.quantile", "-math.log1p(-probability)", "probability"),
            ("concordance", "(won + tied / 2) / total", "won / total"),
            ("concordance", "better + ties / 2 - value * pairs", "better - value * pairs"),
        )
    ),
    Mutant("imputation.targets.risk:_bounded", "(0, most)", "(0, 99)", by="imputation/targets/test_risk.py"),
    Mutant(
        "imputation.targets.risk:folds",
        "order[np.argsort(~given.event[order], kind='stable')]",
        "order",
        by="imputation/targets/test_risk.py",
    ),
    # ---- imputation ----
    Mutant(
        "imputation.methods.simple:ridge_path",
        "squares @ shrink + 1 / n",
        "squares @ shrink",
        by="imputation/methods/test_simple.py",
    ),
    Mutant(
        "imputation.methods.simple:ridge_path",
        "(1 - leverage)",
        "1.0",
        by="imputation/methods/test_simple.py",
    ),
    Mutant(
        "imputation.methods.simple:ridge_path",
        "each + each.mean(1, keepdims=True)",
        "0 * each + each.mean(1, keepdims=True)",
        by="imputation/methods/test_simple.py",
    ),
    Mutant(
        "imputation.methods.simple:KernelRidge.__init__",
        "coefficients - coefficients.mean(0)",
        "coefficients + 0.05",
        by="imputation/methods/test_simple.py",
    ),
    Mutant(
        "imputation.methods.simple:Neighbours.__init__",
        "self.index.kneighbors(return_distance=False)",
        "self.index.kneighbors(known, return_distance=False)",
        by="imputation/methods/test_simple.py",
    ),
    Mutant(
        "imputation.methods.combine:panels_of",
        "patterns.sum(0) < _OF_PANEL",
        "patterns.sum(0) < 0",
        by="imputation/methods/test_combine.py",
    ),
    Mutant(
        "imputation.filling.residuals:mean_of_amounts",
        "np.where(known, residuals, 0) * scale",
        "np.where(known, residuals, 0)",
        by="imputation/test_log_scale.py",
    ),
    Mutant("data.logscale:moments", "3 * mean * second", "2 * mean * second", by="data/test_logscale.py"),
    Mutant(
        "data.logscale:better",
        "np.median(raw.skewness[varying]) <= _SKEWED",
        "False",
        by="data/test_logscale.py",
    ),
    Mutant(
        "imputation.methods.combine:half_widths",
        "(count + 1) * level - 1e-9",
        "count * level - 1e-9",
        by="imputation/methods/test_combine.py",
    ),
    Mutant(
        "imputation.methods.combine:half_widths",
        "(rank <= count) & (count > 0)",
        "count > 0",
        by="imputation/methods/test_combine.py",
    ),
    Mutant(
        "imputation.methods.combine:Combination.__init__",
        "int(rows.sum()) < min(FEWEST, len(rows))",
        "False",
        by="imputation/methods/test_combine.py",
    ),
    Mutant(
        "imputation.methods.combine:_Moments.weights",
        "share / max(float(self.entries.sum()), 1.0)",
        "0.0",
        by="imputation/methods/test_combine.py",
    ),
    Mutant(
        "imputation.imputer:Imputer._within",
        "np.where(hidden, 0, np.tile(values, (rounds, 1)))",
        "np.tile(values, (rounds, 1))",
        by="imputation/test_imputer.py",
    ),
    Mutant(
        "imputation.filling.classes:limits_by_class",
        "codes[:, None] == np.arange(known.shape[1])",
        "codes[:, None] >= 0",
        by="imputation/filling/test_classes.py",
    ),
    Mutant(
        "imputation.methods.members:Members.predict_left_out",
        "fold == member",
        "fold != member",
        by="imputation/methods/test_members.py",
    ),
    Mutant(
        "imputation.methods.members:Members._fit",
        "fold != e",
        "fold == fold",
        by="imputation/methods/test_members.py",
    ),
    Mutant(
        "imputation.methods.factors:Factors._covariance",
        "outer / self.noises[:, None]",
        "outer",
        by="imputation/methods/test_factors.py",
    ),
    Mutant(
        "imputation.methods.wide:Wide.up",
        "values[name] * basis.scale",
        "values[name]",
        by="imputation/methods/test_wide.py",
    ),
    Mutant(
        "imputation.filling.fill:canonical",
        "sorted(range(len(data)), key=found.__getitem__)",
        "range(len(data))",
        by="imputation/test_estimator.py",
    ),
    Mutant(
        "imputation.filling.classes:classes_of_ranks",
        "1 - rank[rows, best]",
        "rank[rows, best]",
        by="imputation/filling/test_classes.py",
    ),
    Mutant(
        "imputation.imputer:Imputer.turns",
        "draws if leader is None else draws[:, leader]",
        "draws",
        by="imputation/filling/test_classes.py",
    ),
    Mutant(
        "imputation.methods.members:Members._shown",
        "lots = lots[..., self.leaders[name]]",
        "pass",
        by="imputation/filling/test_classes.py",
    ),
    Mutant(
        "imputation.methods.trees:Forest.predict",
        "np.delete(filled, self.columns, 1)",
        "np.delete(filled, self.columns - 1, 1)",
        by="imputation/methods/test_trees.py",
    ),
    Mutant(
        "imputation.filling.residuals:joint_residual",
        "model.draw(seen, columns, u) + np.sqrt(noise) * other.standard_normal(found.values.shape)",
        "np.sqrt(noise) * other.standard_normal(found.values.shape)",
        by="imputation/test_estimator.py",
    ),
    Mutant(
        "imputation.files.spool:Matrix.read",
        "result[order] = held",
        "result[:] = held",
        by="imputation/files/test_streaming.py",
    ),
    Mutant(
        "imputation.filling.fill:_Put.__call__",
        "np.where(self.wanted, restored, target[self.rows])",
        "restored",
        by="imputation/test_estimator.py",
    ),
    Mutant(
        "imputation.imputer:Imputer.admit",
        "np.clip(x, *self._range[name])",
        "x",
        by="imputation/test_estimator.py",
    ),
    Mutant(
        "imputation.covariates.effects:_shrunk",
        "b[own] * kept",
        "b[own]",
        by="imputation/covariates/test_effects.py",
    ),
    Mutant(
        "imputation.covariates.effects:estimated",
        "(squared - there_too * noise / len(rows)) / lost",
        "squared - there_too * noise / len(rows)",
        by="imputation/covariates/test_effects.py",
    ),
    Mutant(
        "imputation.covariates.effects:estimated",
        "there_too * noise / len(rows)",
        "0 * noise / len(rows)",
        by="imputation/covariates/test_effects.py",
    ),
    Mutant(
        "imputation.covariates.effects:_Levels.of_unmeasured",
        "self.variance() * self.grow",
        "self.variance()",
        by="imputation/covariates/test_effects.py",
    ),
    Mutant(
        "imputation.filling.residuals:_further",
        "width**2 + more",
        "width**2",
        by="imputation/filling/test_residuals.py",
    ),
    Mutant(
        "imputation.filling.residuals:_further",
        "end + np.sqrt(width**2 + more) - width",
        "np.sign(end) * np.sqrt(end**2 + more)",
        by="imputation/filling/test_residuals.py",
    ),
    Mutant(
        "imputation.covariates.extending:_lost",
        "left - d @ b",
        "left",
        by="imputation/covariates/test_extending.py",
    ),
    Mutant(
        "imputation.filling.residuals:unknown_effects",
        "fold_in(seed, 'effects of levels', key, draw)",
        "fold_in(seed, 'effects of levels', key)",
        by="imputation/covariates/test_conditions.py",
    ),
    Mutant(
        "metrics.reconstruction:_diversity",
        "generation.conditional(context, (observed,), targets, seed, draws, data, prior)",
        "generation.conditional(context, (observed,), targets, seed, draws, data)",
        by="metrics/test_reconstruction.py",
    ),
    Mutant(
        "imputation.covariates.extending:_predicted",
        "trained.noise / np.maximum(variance, _LEAST * np.maximum(trained.noise, _LEAST))",
        "0 * trained.noise",
        by="imputation/covariates/test_extending.py",
    ),
    Mutant(
        "imputation.covariates.extending:_predicted",
        "np.where(never, variance * trained.levels.grow[of], 0)",
        "np.where(never, variance, 0)",
        by="imputation/covariates/test_extending.py",
    ),
    Mutant(
        "imputation.covariates.extending:_with_levels",
        "x - imputer.effects.of(name, rest[rows])",
        "x",
        by="imputation/covariates/test_conditions.py",
    ),
    Mutant(
        "imputation.covariates.effects:Effects.of",
        "shift[0] + _product(columns, shift[1:])",
        "_product(columns, shift[1:])",
        by="imputation/covariates/test_effects.py",
    ),
    Mutant(
        "imputation.covariates.effects:Effects.left_out",
        "left * h / (1 - h)",
        "left * h",
        by="imputation/covariates/test_effects.py",
    ),
    Mutant(
        "imputation.imputer:Imputer.admit",
        "self.effects.removed(tables)",
        "tables",
        by="imputation/covariates/test_conditions.py",
    ),
    Mutant(
        "imputation.choosing:chosen_rows",
        "rows[order[:most]]",
        "rows[:most]",
        by="imputation/test_choosing.py",
    ),
    Mutant(
        "models.subsetpoe:SubsetPoE.bound",
        "warm * self.beta * kl",
        "self.beta * kl * kl",
        by="models/test_subsetpoe.py",
    ),
    Mutant(
        "models.subsetpoe:SubsetPoE.bound",
        "thinned(experts.mask, self.keep)",
        "everything(experts.mask)",
        by="models/test_subsetpoe.py",
    ),
    Mutant(
        "core.aggregate:thinned",
        "u.amin(1, keepdim=True).clamp(min=keep)",
        "torch.full_like(u, keep)",
        by="models/test_subsetpoe.py",
    ),
    Mutant(
        "core.modalities:Modalities._term",
        "torch.where(counted, decoding.all(latents, rows), 0)",
        "decoding.all(latents, rows)",
        by="models/test_subsetpoe.py",
    ),
    # ---- understanding: variance explained, attribution, matching, diagnosis ----
    *(
        Mutant(where, old, new, by=by)
        for where, old, new, by in (
            (
                "metrics.variance:_Moments.r2",
                "second - first.square() / self.count.clamp(min=1)",
                "second",
                "metrics/test_variance.py",
            ),
            (
                "metrics.variance:_alone",
                "both.mean(0, keepdim=True)",
                "0 * both.mean(0, keepdim=True)",
                "metrics/test_variance.py",
            ),
            (
                "metrics.explained:pooled",
                "r2[known] * variance[known]",
                "r2[known]",
                "metrics/test_variance.py",
            ),
            ("metrics.matching:match", "tied / 2", "0 * tied", "metrics/test_matching.py"),
            (
                "metrics.matching:match",
                "(k - closer) / (tied + 1)",
                "(k - closer - 1) / (tied + 1)",
                "metrics/test_matching.py",
            ),
            ("metrics.attribution:integrate", "weights / 2", "weights", "metrics/test_attribution.py"),
            ("metrics.attribution:integrate", "(nodes + 1) / 2", "nodes", "metrics/test_attribution.py"),
            (
                "imputation.understanding.explain:shares_of",
                "2 * centred",
                "1 * centred",
                "imputation/understanding/test_explain.py",
            ),
            (
                "imputation.understanding.explain:varimax",
                "turned**3",
                "turned**2",
                "imputation/understanding/test_explain.py",
            ),
            *(
                (
                    f"imputation.understanding.group_factors:{where}",
                    old,
                    new,
                    "imputation/understanding/test_group_factors.py",
                )
                for where, old, new in (
                    ("GroupFactors.of", "self.weights / self.noises[:, None]", "self.weights"),
                    ("GroupFactors.turned", "by.T @ self.second @ by", "self.second"),
                    ("_State.infer", "self.mean[:, None] * scaled", "scaled"),
                    ("_State.update", "self.repeats[:, None, None] * self.covariance", "0"),
                    ("_State.update", "(mass * self.weights).sum(1)", "0"),
                    ("_State.update", "self.counts * self.mean**2", "0"),
                    ("_State._weights", "self.precisions[self.table] ** -0.5", "self.precisions[self.table]"),
                    ("_State._precisions", "self.sizes[:, None]", "1"),
                    ("_State.rotate", "len(self.groups) - len(self.u)", "len(self.groups)"),
                    ("_State.rotate", "turn.T @ self.second @ turn", "self.second"),
                    ("_covariances", "np.eye(second.shape[1])", "0"),
                )
            ),
            (
                "imputation.understanding.explain:variance_explained",
                "_embedded(imputer, embedding, None)",
                "(given, z)",
                "imputation/understanding/test_explain.py",
            ),
            (
                "imputation.understanding.explain:alike",
                "(active == pattern).all(1)",
                "(active == pattern).any(1)",
                "imputation/understanding/test_explain.py",
            ),
            (
                "imputation.understanding.explain:_arranged",
                "np.where(largest < 0, -1.0, 1.0)",
                "np.where(largest < 0, 1.0, -1.0)",
                "imputation/understanding/test_explain.py",
            ),
            ("metrics.diagnosis:_decoder", "ridge < SHARED", "ridge > SHARED", "metrics/test_diagnosis.py"),
            (
                "metrics.diagnosis:_generation",
                "r2 - shared > BEHIND",
                "r2 - shared < BEHIND",
                "metrics/test_diagnosis.py",
            ),
        )
    ),
]
