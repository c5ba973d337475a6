"""Estimator: embeddings and imputations of people's own data, in the manner of scikit-learn."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from polyvae.data.groups import Decoder
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers import Given
from polyvae.data.readers.classes import Ask, Asked
from polyvae.data.regroup import with_kinds
from polyvae.data.schema import Schema, asked_of
from polyvae.imputation.advice import advise, advise_of_classes, advise_of_training_samples, warn_of_infinite
from polyvae.imputation.choosing import check_memory, chosen_rows
from polyvae.imputation.covariates import conditions
from polyvae.imputation.covariates.extending import extended
from polyvae.imputation.files import storing
from polyvae.imputation.files.streaming import Reading, impute_files, predict_files
from polyvae.imputation.filling.fill import (
    Kind,
    Statistic,
    blocks,
    canonical,
    check_level,
    fill,
    wanted,
    whole,
)
from polyvae.imputation.imputer import Imputer
from polyvae.imputation.parameters import check_parameters
from polyvae.imputation.recipe import designs
from polyvae.imputation.scoring.diagnosis import diagnose
from polyvae.imputation.scoring.held_out import held_out, on_hidden, on_new
from polyvae.imputation.scoring.scores import Scores
from polyvae.imputation.tables import Tables
from polyvae.imputation.targets.cox import concordance
from polyvae.imputation.targets.hazards import Hazards
from polyvae.imputation.targets.predicting import Outcome, TargetPredictor, of_risk, outcome, risks, survival
from polyvae.imputation.targets.target import TARGET, Target
from polyvae.imputation.targets.times import Times, of_y
from polyvae.imputation.understanding import explain
from polyvae.imputation.understanding.embedding import Embedding
from polyvae.imputation.understanding.group_factors import GroupFactors
from polyvae.metrics.attribution import STEPS, Attribution
from polyvae.metrics.diagnosis import Diagnosis
from polyvae.metrics.explained import VarianceExplained
from polyvae.utils.devices import device_of
from polyvae.utils.errors import InputError, check_count
from polyvae.utils.progress import reporter

Data = Any
"""Data frames, arrays, AnnData, MuData, MultimodalData or paths: what ``polyvae.data.readers.read`` accepts."""


class Estimator(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Embeddings and calibrated imputations of tables with missing modalities and missing entries.

    ``fit`` trains ensembles of multimodal VAEs, whose members each leave out a part of the samples, and the simple methods (ridge, kernel
    ridge, k-NN on PCA). They are combined by non-negative least squares on predictions of samples left out, for each modality and each
    pattern of observed modalities, so the result is close to that of the best of them. Intervals are split-conformal, from residuals of
    samples left out with the same pattern.

    X is a mapping from names of modalities to data frames (joined on their ids), arrays or paths; one data frame or array; an AnnData or
    MuData; or MultimodalData. NaN marks entries that were not measured, unless ``nan="error"``.

    Args:
        model: A name in ``pv.MODELS``, the members of the ensembles.
        latent: Columns of the embedding, and latent columns of each member.
        members: Models in an ensemble, 2 or more. Each leaves out one of as many folds.
        options: Further options of the model.
        network: Parameters of the networks, such as ``{"hidden": [256], "dropout": 0.1}``. None: by the number of samples.
        steps: The largest number of training steps. None: by the number of samples.
        max_seconds: The largest training time of each ensemble. None: no limit.
        max_samples: The largest number of training samples; of more as many are drawn at random, by their ids or else their places, so
            that the memory of ``fit`` is bounded. None: all.
        id: The column with the ids of samples; False: row i is the same sample in every table.
        nan: "missing", or "error".
        missing_columns: What it means that new data lack a feature: "error", or "mask", which makes its entries missing.
        kinds: Modality -> column -> "categorical", "ordinal", "real", "count" or "binary", or the classes of an ordinal in order, where
            the values alone mean another kind: integer codes of classes, text beside numbers.
        unseen_classes: What classes are that the training data did not have: "error", or "mask", which makes the entry missing.
        log_scale: The modalities that are described on the scale log(1 + x), with one scale for all columns: a list of names, or "auto"
            for tables of counts alone, five columns or more, which are skewed as counts of RNA and proteins are. Imputed values are in
            units: means of amounts, or with ``statistic="median"`` their medians, whose logarithms are the predictions of least error
            there. Scores and attributions are of log(1 + x).
        target: What y is: "class", "number", "time" (time and event), or "auto", by its values.
        covariates: What is known of every sample and conditioned on, such as a batch: names of columns of tables, of columns of obs of
            AnnData and MuData, or of covariates of MultimodalData. They are no features. Texts are levels and numbers are numbers; a
            mapping from names to "categorical" or "real" (None: by the values) takes codes as levels. None: none.
        units: Modality -> feature -> unit, for reports.
        device: Where the members compute, such as "cpu" or "cuda".
        seed: The seed of folds, initial weights and noise.
        verbose: Print progress.

    Attributes:
        schema_: Names, order, kinds, scaling and ranges of the features of the training data.
        scores_: Held-out scores of every method, of each modality predicted from the others.
        n_features_in_: The number of features of all modalities.
        risk_scores_: Where y is a time to event, the C-index of samples left out, with its 95 % interval, of every Cox regression: of
            each modality, of "all columns", of "equally weighted modalities" (all columns, each divided by the root of the number of
            columns of its modality), of the embedding, and of their combination, "stack".
        seconds_: How long ``fit`` took.

    Example:
        >>> import numpy as np
        >>> import polyvae as pv
        >>> rng = np.random.default_rng(0)
        >>> z = rng.normal(size=(60, 2))
        >>> a, b = z @ rng.normal(size=(2, 5)), z @ rng.normal(size=(2, 4))
        >>> b[:10] = np.nan
        >>> est = pv.Estimator(seed=0, steps=60).fit({"a": a, "b": b})
        >>> filled = est.impute({"a": a, "b": b})
        >>> bool(np.isnan(filled["b"]).any()), bool((filled["b"][10:] == b[10:]).all())
        (False, True)
    """

    def __init__(
        self,
        model: str = "subset-poe",
        *,
        latent: int = 48,
        members: int = 5,
        options: dict[str, Any] | None = None,
        network: dict[str, Any] | None = None,
        steps: int | None = None,
        max_seconds: float | None = None,
        max_samples: int | None = None,
        id: Any = None,
        nan: Literal["missing", "error"] = "missing",
        missing_columns: Literal["error", "mask"] = "error",
        kinds: dict[str, dict[str, Any]] | None = None,
        unseen_classes: Literal["error", "mask"] = "error",
        log_scale: Literal["auto"] | list[str] = "auto",
        target: Literal["auto", "class", "number", "time"] = "auto",
        covariates: Sequence[str] | dict[str, str | None] | None = None,
        units: dict[str, dict[str, str]] | None = None,
        device: str = "cpu",
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.latent = latent
        self.members = members
        self.options = options
        self.network = network
        self.steps = steps
        self.max_seconds = max_seconds
        self.max_samples = max_samples
        self.id = id
        self.nan = nan
        self.missing_columns = missing_columns
        self.kinds = kinds
        self.unseen_classes = unseen_classes
        self.log_scale = log_scale
        self.target = target
        self.covariates = covariates
        self.units = units
        self.device = device
        self.seed = seed
        self.verbose = verbose

    # ---- fit -------------------------------------------------------------------------------------------------

    def fit(self, X: Data, y: Any = None) -> Self:
        """Train on samples of which any modality or entry may be missing.

        Args:
            X: The data.
            y: A class or a number for each sample, which ``predict`` predicts: a mapping from ids, or a sequence in the order of the
                samples; None or NaN where it is not known. Of times to an event two columns, time and event (whether it was observed,
                rather than censored): a data frame, an array [N, 2] or a structured one, or pairs. Events are booleans, 0 and 1, or the
                texts true and false or yes and no; they may come first, where no column of times looks like them. None: there is no y.

        Raises:
            InputError: Data that cannot be read, fewer than 2 samples, a sample of which nothing was observed, or an option out of range.
        """
        start = time.monotonic()
        check_parameters(self.get_params(deep=False))
        given = self._read(X, lambda name: Asked((self.kinds or {}).get(name, {})))
        names = conditions.names_of(self.covariates)
        conditions.advise_of_covariates(
            X if isinstance(X, MultimodalData) else given.data, names, self.covariates
        )
        given = given._replace(data=with_kinds(given.data, self.kinds))
        rows = chosen_rows(given.data, self.max_samples, self.seed)
        data = given.data if rows is None else given.data.rows(rows)
        check_memory(data)
        schema = Schema.fit(data, self.units, self.kinds, names, log_scale=self.log_scale)
        data = schema.align(data)
        order = canonical(schema, data)
        tables = whole(schema, data, order)
        target, times = of_y(y, given.data.ids, len(given.data), self.target)
        kept = order if rows is None else rows[order]
        if target is not None:
            tables = target.beside(tables, kept)
        advise(schema, tables, self.log_scale)
        if target is not None and target.classes is not None:
            advise_of_classes(data, len(target.classes))
        schema, effects, tables = conditions.adjusted(schema, data, order, tables)
        with reporter(self.verbose) as report:
            imputer = Imputer(
                tables,
                designs(self, tables.size),
                self.members,
                self.seed,
                device_of("estimator", self.device),
                () if target is None else (TARGET,),
                leaders=storing.leaders_of(schema),
                effects=effects,
            ).fit(report)
            report.start("combining and scoring", None)
            embedding = Embedding.fit(imputer, self.latent)
            hazards = None if times is None else Hazards.fit(imputer, embedding, times.rows(kept))
            self._set(schema, imputer, target, embedding, hazards)
            self.scores_ = held_out(schema, imputer)
        self.seconds_ = time.monotonic() - start
        return self

    def _set(
        self,
        schema: Schema,
        imputer: Imputer,
        target: Target | None,
        embedding: Embedding,
        hazards: Hazards | None,
    ) -> None:
        self.schema_, self._imputer, self._target, self._embedding = schema, imputer, target, embedding
        self._hazards = hazards
        self._factors: GroupFactors | None = None
        for name in ("risk_scores_", "feature_names_in_", "classes_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        if hazards is not None:
            self.risk_scores_ = hazards.scores()
        self.n_features_in_ = sum(len(each.originals) for each in schema.modalities)
        if len(schema.modalities) == 1 and schema.modalities[0].named:
            self.feature_names_in_ = np.array(schema.modalities[0].originals, dtype=object)
        if target is not None and target.classes is not None:
            self.classes_ = np.array(target.classes)

    def _read(self, X: Data, asked: Ask, overlap: bool = True) -> Given:
        return conditions.read_with(
            X, self.covariates, id=self.id, nan=self.nan, overlap=overlap, asked=asked
        )

    def _aligned(self, X: Data) -> tuple[Given, MultimodalData]:
        check_is_fitted(self, "schema_")
        # New samples may have one modality each.
        given = self._read(X, asked_of(self.schema_, self.unseen_classes), overlap=False)
        return given, self.schema_.align(given.data, missing=self.missing_columns, unseen=self.unseen_classes)

    # ---- results ---------------------------------------------------------------------------------------------

    def impute(
        self,
        X: Data,
        *,
        interval: float | None = None,
        draws: int | None = None,
        statistic: Statistic = "mean",
        kind: Kind = "conformal",
        covariates: dict[str, Any] | None = None,
    ) -> Any:
        """The same data with what was not measured filled in; measured values are returned as they were given.

        Args:
            X: The data, with the modalities and features of the training data, or some of them.
            interval: Return intervals that cover a missing value with this probability, such as 0.9. They are infinite where too few
                training samples have the modality (fewer than interval / (1 − interval)).
            draws: Return this many completed data sets, for multiple imputation; ``pool`` combines what is computed from each.
            statistic: "mean" or "median".
            kind: "conformal" intervals, from residuals of samples left out; "class-conditional", the same with sets that contain
                each class, and each of the numbers 0 and 1, with this probability where it is the true one, however rare; or
                "predictive" ones, from draws of the VAE.
            covariates: Name -> one value for all samples, or [N], in place of their own: {"batch": "b"} predicts what is missing as it
                would have been measured in batch b.

        Returns:
            Data in the container, units, columns and order of X, for all its samples and all modalities of the training data; with
            ``interval``, three of them: predictions, lower and upper ends; with ``draws``, a list of them.

        Raises:
            InputError: Data that do not fit the training data, or an argument out of range.
        """
        asked = wanted(self.seed, interval, draws, statistic, kind)
        given, data = self._aligned(X)
        filled = fill(
            self.schema_, self._imputer, data, asked, conditions.instead_of(self.schema_, covariates)
        )
        if draws is not None:
            return [self._back(given, one) for one in filled.draws]
        if interval is not None:
            warn_of_infinite(filled.infinite())
            assert filled.low is not None
            assert filled.high is not None
            ends = (self._back(given, one, sets=True) for one in (filled.low, filled.high))
            return self._back(given, filled.values), *ends
        return self._back(given, filled.values)

    def impute_to(
        self,
        out: str | Path,
        files: Any,
        *,
        interval: float | None = None,
        draws: int | None = None,
        statistic: Statistic = "mean",
        kind: Kind = "conformal",
        format: str | None = None,
        force: bool = False,
        covariates: dict[str, Any] | None = None,
    ) -> list[Path]:
        """``impute`` from files to files, for data that memory does not hold: the same results, bit for bit.

        Some thousands of samples are in memory at a time. A temporary folder beside ``out`` takes the space of the data and of each
        result in binary form.

        Args:
            out: A folder, which gets a file for each modality, or a csv, tsv or parquet file where there is one modality.
            files: Modality -> csv, tsv or parquet file; or a list of files whose names are those of modalities. They may have their rows
                in any order.
            interval: Write the ends of intervals too, as NAME.low and NAME.high; see ``impute``.
            draws: Write completed data with draws too, as NAME.draw1, NAME.draw2, ...
            statistic: "mean" or "median".
            kind: "conformal", "class-conditional" or "predictive"; see ``impute``.
            format: "csv", "tsv" or "parquet", of the files of a folder; None: that of the first file. Parquet needs pyarrow.
            force: Replace results that polyvae wrote.
            covariates: Name -> one value for all samples in place of their own; see ``impute``.

        Returns:
            The paths that were written.

        Raises:
            InputError: Files that do not fit the training data, an argument out of range, or an existing ``out``.
            StorageError: A file could not be written.
        """
        check_is_fitted(self, "schema_")
        asked = wanted(self.seed, interval, draws, statistic, kind, both=True)
        instead = conditions.instead_of(self.schema_, covariates, single=True)
        return impute_files(
            self.schema_, self._imputer, files, Path(out), asked, self._reading(),
            format=format, force=force, covariates=instead,
        )  # fmt: skip

    def _reading(self) -> Reading:
        return Reading(self.id, self.nan, None, self.missing_columns, self.unseen_classes, self.covariates)

    def _back(self, given: Given, values: dict[str, NDArray[np.floating[Any]]], sets: bool = False) -> Any:
        shaped = {
            each.name: values[each.name].reshape(len(given.data), *each.shape)
            for each in self.schema_.modalities
        }
        decoder = Decoder(self.schema_.groups, sets)
        return given.layout.back(shaped, self.schema_.columns, given.data.ids, decoder)

    def transform(self, X: Data, std: bool = False, *, factors: bool = False) -> Any:
        """The embedding of each sample given what was observed of it; with ``factors``, the factors of ``factors`` in its place.

        Args:
            X: The data.
            std: Append the standard deviation of each column.
            factors: Return the factors f0, f1, ..., of unit variance, which explain simple parts of the data; the columns of the embedding
                are principal components of what the VAE expects.

        Returns:
            [N, D] (or [N, 2 D]), with a row per sample of X (the union of the ids of data frames), in a table of the library of X.
        """
        given, data = self._aligned(X)
        model = self._factor_model() if factors else None
        width = (model or self._embedding).width
        mean, scale = np.zeros((2, len(data), width))
        for rows, part in blocks(self.schema_, data):
            part = self._with_target(part)
            if model is not None:
                mean[rows], scale[rows] = explain.factor_values(self.schema_, self._imputer, model, part)
                continue
            mean[rows] = self._embedding.of(self._imputer, part)
            if std:
                scale[rows] = self._embedding.spread(self._imputer, part, self.seed)
        z = np.concatenate([mean, scale], 1) if std else mean
        names = [f"{'f' if factors else 'z'}{column}" for column in range(width)]
        names += [f"{name}_std" for name in names] if std else []
        return given.layout.embedding(z, given.data.ids, names)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """The names of the columns of the embedding: z0, z1, ..."""
        check_is_fitted(self, "schema_")
        return np.array([f"z{column}" for column in range(self._embedding.width)], dtype=object)

    def predict(self, X: Data, *, interval: float | None = None) -> Any:
        """The class or the number that ``y`` was in ``fit``, for each sample; of times to an event the risk.

        Intervals of numbers and sets of classes are split-conformal, for each pattern of observed modalities: they contain the true value
        with this probability, on average over samples like those of ``fit``. The risk is the log relative hazard of a Cox model, higher
        where the event is expected earlier. Its interval is between quantiles of the survival curve, in the unit of the times in y,
        which depend on that model; it is infinite where the curve does not fall as low.

        Args:
            X: The data.
            interval: The probability that intervals or sets cover, such as 0.9. None: predictions alone.

        Returns:
            Of arrays and MultimodalData an array [N]; of data frames a table of their library with the ids and the column "prediction"
            (or "risk"), and a row per sample (the union of their ids); of AnnData and MuData a copy with ``.obs["prediction"]``. With
            ``interval``, of numbers the columns prediction, lower and upper; of classes a column for each, as of ``predict_proba``, with
            True where it is in the set; of times risk, median, lower and upper.

        Raises:
            InputError: ``fit`` was called without y, or a probability out of range.
        """
        check_level("predict", interval)
        if self._with_times():
            assert self._hazards is not None
            given, eta = self._risks(X)
            found = of_risk(self._hazards, eta, interval)
            return given.layout.prediction(found.values, given.data.ids, found.names)
        given, result = self._outcome(X, interval)
        if interval is None:
            return given.layout.prediction(result.values, given.data.ids, ["prediction"])
        assert self._target is not None
        found = result.with_interval(self._target)
        return given.layout.prediction(found.values, given.data.ids, found.names)

    def predict_to(
        self,
        out: str | Path,
        files: Any,
        *,
        interval: float | None = None,
        times: Sequence[float] = (),
        force: bool = False,
    ) -> Path:
        """``predict``, ``predict_proba`` and ``predict_survival`` from files to a table, for data that memory does not hold.

        The values are the same, bit for bit. Some thousands of samples are in memory at a time, as of ``impute_to``.

        Args:
            out: A csv, tsv or parquet file; or an npy file [N, C] of numbers without ids, where y is a number or a time.
            files: See ``impute_to``.
            interval: Write intervals or sets too; see ``predict``.
            times: Of a time to event, the times of ``predict_survival``, each in a column S(T).
            force: Replace an existing file.

        Returns:
            The path. Columns are the ids and: of a number prediction, and with ``interval`` lower and upper; of a class prediction,
            p(CLASS) for each class, and with ``interval`` set, its classes with a bar between them; of a time risk and median, and
            with ``interval`` lower and upper. Rows are in the order in which the samples first occur.

        Raises:
            InputError: ``fit`` was called without y, files that do not fit the training data, or an existing ``out``.
            StorageError: The file could not be written.
        """
        check_level("predict", interval)
        if not self._with_times() and len(times):
            raise InputError("predict: got times, and y was no time in fit; expected none; leave them out")
        return predict_files(self._predictor(interval, times), files, Path(out), self._reading(), force=force)

    def _predictor(self, interval: float | None, times: Sequence[float] = ()) -> TargetPredictor:
        return TargetPredictor(
            self.schema_, self._imputer, self._embedding, self._target, self._hazards, interval, times
        )

    def predict_proba(self, X: Data) -> Any:
        """The probability of each class, in the order of ``classes_``.

        They are the predicted indicators of the classes, clipped at 0 and scaled to add to 1, and are not calibrated.

        Args:
            X: The data.

        Returns:
            As of ``predict``, with a column for each class, which has its name; of arrays [N, C].

        Raises:
            InputError: ``fit`` was called without y, or with numbers or times.
        """
        if self._with_times():
            raise InputError("predict_proba: y was a time in fit; expected classes; use predict_survival")
        given, result = self._outcome(X)
        if result.chances is None:
            raise InputError("predict_proba: y was a number in fit; expected classes; use predict")
        return given.layout.prediction(
            result.chances, given.data.ids, [str(each) for each in self.classes_.tolist()]
        )

    def predict_survival(self, X: Data, times: Any = None) -> Any:
        """The probability that the event has not happened yet at each time: survival curves of a Cox model with Breslow's baseline.

        Args:
            X: The data.
            times: In the unit of y, such as [365, 730]. None: all times of events of the training samples. After the last time of the
                training samples curves stay at their last value, with a warning.

        Returns:
            As of ``predict``, with a column for each time, named by it; of arrays [N, T].

        Raises:
            InputError: ``fit`` was called without times, or negative times.
        """
        if not self._with_times():
            raise InputError("predict_survival: y was no time in fit; expected time and event; use predict")
        assert self._hazards is not None
        given, eta = self._risks(X)
        found = survival(self._hazards, eta, times)
        return given.layout.prediction(found.values, given.data.ids, found.names)

    def _with_times(self) -> bool:
        """Whether y was a time. Raises InputError: there was no y."""
        check_is_fitted(self, "schema_")
        if self._target is None and self._hazards is None:
            raise InputError("predict: fit was called without y; expected one; call fit(X, y)")
        return self._hazards is not None

    def _outcome(self, X: Data, level: float | None = None) -> tuple[Given, Outcome]:
        given, data = self._aligned(X)
        assert self._target is not None
        return given, outcome(self.schema_, self._imputer, self._target, data, level)

    def _risks(self, X: Data) -> tuple[Given, NDArray[np.float64]]:
        given, data = self._aligned(X)
        assert self._hazards is not None
        return given, risks(self.schema_, self._imputer, self._embedding, self._hazards, data)

    def _with_target(self, part: Tables) -> Tables:
        return part if self._target is None else self._target.missing_beside(part)

    def sample(self, n: int, seed: int = 0) -> Any:
        """New samples of all modalities, drawn from the prior of the VAE; with the covariates of training samples chosen at random.

        Args:
            n: The number of samples.
            seed: The seed of the draws.

        Returns:
            Name -> [n, F], in units.
        """
        check_is_fitted(self, "schema_")
        check_count("sample", "n", n)
        drawn = self._imputer.sample(n, seed)
        return {name: self.schema_.restore(name, drawn[name]) for name in self.schema_.names}

    def scores(self, X: Data) -> Scores:
        """Scores of new samples: every modality hidden in turn, and predicted from what else was observed.

        Of a single modality a fifth of the observed entries is hidden, at random, and predicted from the others.

        Args:
            X: Samples that ``fit`` did not see. A warning counts those that have the same values as a training sample in all their tables,
                two or more, or in one table with 20 observed entries or more.
        """
        _, data = self._aligned(X)
        part = whole(self.schema_, data, canonical(self.schema_, data))
        if len(self.schema_.names) == 1:
            return on_hidden(self.schema_, self._imputer, self._with_target(part))
        advise_of_training_samples(
            self._imputer.tables, self._imputer.effects.removed(part), self.schema_.names
        )
        return on_new(self.schema_, self._imputer, self._with_target(part))

    def score(self, X: Data, y: Any = None) -> float:
        """The mean R² of every modality hidden in turn; with ``y``, the accuracy of classes, the R² of numbers or the C-index of times.

        Of a single modality it is the R² of observed entries that are hidden; see ``scores``.
        """
        if y is not None:
            check_is_fitted(self, "schema_")
            if self._hazards is not None:
                given, eta = self._risks(X)
                times = Times.of(y, given.data.ids, len(given.data))
                return concordance(times.survival(), eta[times.known]).value
            if self._target is None:
                raise InputError(
                    "score: got y, and fit was called without y; expected one there; call fit(X, y)"
                )
            given, result = self._outcome(X)
            return self._target.score(result.values, y, given.data.ids, len(given.data))
        found = self.scores(X).select(method="stack", score="r2", feature=None)
        if not len(found):
            raise InputError(
                "score: got no sample with a modality that can be predicted from another and that varies; expected some; pass y, or see "
                "scores_"
            )
        return float(np.mean([row.value for row in found.rows]))

    # ---- understanding ---------------------------------------------------------------------------------------

    def variance_explained(
        self, X: Data = None, *, rotation: Literal["none", "varimax"] = "none"
    ) -> VarianceExplained:
        """R² by column of the embedding, modality and feature.

        The embedding is a linear map of what the members of the VAE expect of all features. The share of a column in the variance of a
        feature is its loading times (2 Cov(z, x) − Cov(z, x̂)) / Var(x), over the samples in which the feature was observed; shares add up
        to 1 − Var(x − x̂) / Var(x), the part "all". Where columns are uncorrelated, as they nearly are, a share is the R² of one factor as
        in MOFA. The part "others" is the held-out R² of ``scores_``, of a modality or a feature predicted from the other modalities;
        columns of a class, such as "stage=ii", have that of the class. R² of a modality is that of its standardised features, pooled.

        Args:
            X: Samples. None: the training samples, each embedded by the member that left it out.
            rotation: "none" for the columns of ``transform``, z0, z1, ...; "varimax" for the columns that explain 1 % of a modality or
                more of the training samples, rotated so that each feature depends on few of them: f0, f1, ... Of the same factors of
                a factor model, which recovers those of simulations better, see ``factors``.

        Returns:
            The table. Its ``factors`` are the values of the columns; of training samples in an order that does not depend on that of X in
            ``fit``.

        Raises:
            InputError: Data that do not fit the training data, or another rotation.
        """
        if rotation not in ("none", "varimax"):
            raise InputError(
                f"variance explained: got rotation={rotation!r}; expected 'none' or 'varimax'; choose one"
            )
        check_is_fitted(self, "schema_")
        tables = None if X is None else self._in_order(X)
        turned = rotation == "varimax"
        return explain.variance_explained(
            self.schema_, self._imputer, self._embedding, self.scores_, tables, turned
        )

    def factors(self, X: Data = None) -> VarianceExplained:
        """Factors that can be interpreted: which modalities and features each is active in, its weights, and its values.

        A group factor analysis of the standardised features, x = μ + W u + ε, is fitted to the observed values of the training samples
        (5,000 at most, and 33 million values) at the first call. It begins with the columns of the embedding. Each factor has a
        precision of its weights in each modality, so that it can vanish from some of them; this is the model of MOFA without its
        spikes, with normal likelihoods. Factors that explain less than 1 % of every modality are left out. f0 explains most of all
        modalities together; of each factor the weight of largest magnitude is positive. Shares of variance are as in
        ``variance_explained``, of values of the factors given all that was observed of a sample, the feature included.

        Args:
            X: Samples. None: the training samples.

        Returns:
            The table. Its ``factors`` [N, K] are the values, ``weights`` has W of each modality, [F, K]. ``transform(X, factors=True)``
            returns the values in a table with the ids of X.

        Raises:
            InputError: Data that do not fit the training data.

        Example:
            >>> import numpy as np
            >>> import polyvae as pv
            >>> rng = np.random.default_rng(0)
            >>> u = rng.normal(size=(60, 2))
            >>> a, b = u[:, :1] @ rng.normal(size=(1, 5)), u @ rng.normal(size=(2, 4))  # the second is active in b only
            >>> a, b = (x + 0.3 * rng.normal(size=x.shape) for x in (a, b))
            >>> found = pv.Estimator(seed=0, steps=60).fit({"a": a, "b": b}).factors()
            >>> found.active(), [name for name in found.latents if found.value("a", name) > 0.1], found.weights["b"].shape
            (('f0', 'f1'), ['f0'], (4, 2))
        """
        tables = None if X is None else self._in_order(X)
        return explain.factors_of(self.schema_, self._imputer, self._factor_model(), self.scores_, tables)

    def _factor_model(self) -> GroupFactors:
        check_is_fitted(self, "schema_")
        if self._factors is None:
            self._factors = explain.fit_factors(self.schema_, self._imputer, self._embedding)
        return self._factors

    def attribute(self, X: Data, of: Any, *, to: Any = None, steps: int = STEPS) -> Attribution:
        """Attribute a column of the embedding, or an imputed feature, to the inputs by integrated gradients.

        The output is that of the members of the VAE, at their posterior means: exactly the column of ``transform`` for members with one
        component and no private latents, as the default ones have; for a feature, the VAE's part of what ``impute`` combines, without
        ridge and neighbours. The baseline is the mean of the training data.

        Args:
            X: The samples.
            of: A column such as "z0", or a modality and one of its features: ("protein", "CD3"). Of a column of classes one class,
                ("clinical", "stage=ii"), whose output is its predicted probability before it is clipped. The risk of a time to event has
                none.
            to: The modalities that are the inputs; the others are taken as missing. None: all, but for the modality of the feature.
            steps: Nodes of the quadrature.

        Returns:
            The attributions of each sample, in units of the output. They add up to the output minus its value at the baseline.

        Raises:
            InputError: Data that do not fit the training data, or an unknown column, modality or feature.
        """
        check_count("attribute", "steps", steps)
        tables = self._in_order(X)
        return explain.attribute(self.schema_, self._imputer, self._embedding, tables, of, to, steps)

    def diagnose(self) -> Diagnosis:
        """What is wrong with the fit, if anything: each finding names the modality, a number with its threshold, and a remedy."""
        check_is_fitted(self, "schema_")
        return diagnose(self.schema_, self._imputer, self.scores_)

    def _in_order(self, X: Data) -> Tables:
        _, data = self._aligned(X)
        part = whole(self.schema_, data, np.arange(len(data))).rows(slice(None))  # dense
        return self._with_target(part)

    def extend(self, X: Data) -> Self:
        """A copy that knows levels of covariates that the training data did not have, such as a new batch or site.

        The effects of the new levels are estimated from the samples of X that have them, and shrunk by how much levels differed in
        training (best linear prediction). Nothing is trained again and results for known levels stay as they are, bit for bit. A feature
        that no sample of a new level has gets the mean over the known levels, with wider intervals. A warning names new levels that differ
        from the known ones by much more than these from each other, because shrinkage then takes a part of their effects.

        Args:
            X: New samples, with their covariates. Those of known levels are not used.

        Returns:
            A new estimator; this one is not changed.

        Raises:
            InputError: No covariate of X has a new level, one that has had a single level in training, or data that do not fit the
                training data.
        """
        other = copy.copy(self)
        other.schema_, other._imputer = extended(self.schema_, self._imputer, self._aligned(X)[1])
        return other

    # ---- files -----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator into one file. It contains the standardised training data.

        Args:
            path: The file, such as "cohort.polyvae". An existing file is replaced as a whole.
        """
        check_is_fitted(self, "schema_")
        storing.save(
            path,
            self.get_params(),
            self.schema_,
            self._imputer,
            self._target,
            self._embedding,
            self.scores_,
            self._hazards,
        )

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Self:
        """Read an estimator that ``save`` wrote. No code is imported and nothing is unpickled.

        Args:
            path: The file.
            device: Where the members compute, such as "cuda". Results are on the host whatever it is.

        Raises:
            InputError: Another file, or a damaged one; a device that is not there.
        """
        there = device_of("load", device)
        stored = storing.load(path)
        estimator = cls(**stored.params, device=str(there))
        imputer = stored.imputer(designs(estimator, stored.tables.size), there)
        estimator._set(stored.schema, imputer, stored.target, stored.embedding, stored.hazards)
        estimator.scores_ = stored.scores
        return estimator

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
