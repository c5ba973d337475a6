"""The class methods of MultimodalData that read data frames, arrays and files."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from polyvae.data.multimodal import MultimodalData

_Path = str | os.PathLike[str]
_Paths = Mapping[str, _Path] | Sequence[_Path] | _Path


class Readers:
    """See MultimodalData. Each method imports its reader where it is used."""

    @classmethod
    def from_frames(
        cls,
        frames: Mapping[str, Any],
        *,
        id: str | Literal[False] | None = None,
        nan: Literal["error", "missing"] = "error",
        labels: Any = None,
        overlap: bool = True,
        kinds: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> MultimodalData:
        """Read a data frame for each modality and join them on the ids of samples.

        A sample without a row in a frame lacks that modality. Samples are in the order of first appearance; ids are compared as text.

        Args:
            frames: Modality -> data frame of pandas, polars, pyarrow or another library that narwhals reads; one column for each feature.
                Texts, booleans and categories become columns of classes; see ``levels`` of MultimodalData.
            id: The column with the ids. None: the index of pandas. False: row i is the same sample in every frame.
            nan: "error", or "missing" where NaN and null mark entries that were not measured.
            labels: A column of the frames, which is no feature then; a mapping from ids to classes; a pandas Series with ids as index; or
                a sequence [N]. Classes that are text are numbered in alphabetical order, and named in ``card["classes"]``.
            overlap: Whether some sample must have two modalities, where there are two or more.
            kinds: Modality -> column -> "categorical", "ordinal", "real", "count" or "binary", or the classes of an ordinal in order, where
                the values alone are read as something else.
            **settings: Further arguments of MultimodalData: modalities, groups, splits, card, seed, and covariates: names of columns,
                which are no features then; name -> a mapping from ids to values, a pandas Series or values [N]; a pandas DataFrame with
                ids as index; or the path of a csv file with ids in its first column.

        Raises:
            InputError: No ids, repeated ids or columns, values that are not numbers, infinite or (unless allowed) missing; no overlap.

        Example:
            >>> import pandas as pd
            >>> import polyvae as pv
            >>> rna = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, index=["s1", "s2"])
            >>> protein = pd.DataFrame({"p": [5.0, 6.0]}, index=["s2", "s3"])
            >>> data = pv.MultimodalData.from_frames({"rna": rna, "protein": protein})
            >>> data.ids, data.mask.tolist()
            (['s1', 's2', 's3'], [[True, True, False], [False, True, True]])
        """
        from polyvae.data.readers.frames import from_frames
        from polyvae.data.regroup import asked_for, with_kinds

        asked = asked_for(kinds)
        data, _ = from_frames(frames, id=id, nan=nan, labels=labels, overlap=overlap, asked=asked, **settings)
        return with_kinds(data, kinds)

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Any],
        *,
        ids: Mapping[str, Sequence[Hashable]] | Sequence[Hashable] | None = None,
        columns: Mapping[str, Sequence[str]] | None = None,
        nan: Literal["error", "missing"] = "error",
        labels: Any = None,
        overlap: bool = True,
        **settings: Any,
    ) -> MultimodalData:
        """Read an array for each modality and join them on the ids of samples.

        Args:
            arrays: Modality -> array [n, *shape].
            ids: Modality -> n ids of its rows; or N ids where the arrays have the same rows. None: row i is the same sample in every array.
            columns: Modality -> names of its features.
            nan: "error", or "missing" where NaN marks entries that were not measured.
            labels: A mapping from ids to classes, or a sequence [N]; see ``from_frames``.
            overlap: Whether some sample must have two modalities, where there are two or more.
            **settings: Further arguments of MultimodalData: modalities, groups, splits, card, seed.

        Raises:
            InputError: Different numbers of rows without ids, and what ``from_frames`` refuses.
        """
        from polyvae.data.readers.arrays import from_arrays

        return from_arrays(
            arrays, ids=ids, columns=columns, nan=nan, labels=labels, overlap=overlap, **settings
        )[0]

    @classmethod
    def from_csv(
        cls,
        paths: _Paths,
        *,
        id: str | Literal[False] | None = None,
        nan: Literal["error", "missing"] = "error",
        labels: Any = None,
        overlap: bool = True,
        kinds: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> MultimodalData:
        """Read a table for each modality from files, by their ending, and join them on the ids of samples.

        Separators (comma, semicolon, tab) and encodings (UTF-8, UTF-16, Windows-1252) are detected.

        Args:
            paths: Modality -> path; or paths, whose stems name the modalities. Files are .csv, .tsv, .parquet, .npy,
                .npz or .h5ad, also mixed. Arrays without ids have those of a table with as many rows, in its order; see ``pv.data.join``.
            id: The column with the ids. None: the first column, if it contains text or has an empty name or one such as "id" or
                "sample_id". False: row i is the same sample in every table.
            nan: "error", or "missing" where empty cells and words such as NA mark entries that were not measured.
            labels: A column of the tables, a mapping from ids to classes, or a sequence [N]; see ``from_frames``.
            overlap: Whether some sample must have two modalities, where there are two or more.
            kinds: Modality -> column -> "categorical", "ordinal", "real", "count" or "binary", or the classes of an ordinal in order, where
                the values alone are read as something else.
            **settings: Further arguments of MultimodalData: modalities, groups, splits, card, seed.

        Raises:
            InputError: A file that is missing or no table, no ids, and what ``from_frames`` refuses.
        """
        from polyvae.data.readers.together import from_paths
        from polyvae.data.regroup import asked_for, with_kinds

        asked = asked_for(kinds)
        data, _ = from_paths(paths, id=id, nan=nan, labels=labels, overlap=overlap, asked=asked, **settings)
        return with_kinds(data, kinds)

    @classmethod
    def from_parquet(
        cls,
        paths: _Paths,
        *,
        id: str | Literal[False] | None = None,
        nan: Literal["error", "missing"] = "error",
        labels: Any = None,
        overlap: bool = True,
        kinds: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> MultimodalData:
        """Read a parquet file for each modality; see ``from_csv``. It needs polars or pyarrow."""
        return cls.from_csv(paths, id=id, nan=nan, labels=labels, overlap=overlap, kinds=kinds, **settings)

    @classmethod
    def from_anndata(
        cls,
        adata: Any,
        *,
        name: str = "X",
        layer: str | None = None,
        obsm: Sequence[str] | Mapping[str, str] = (),
        nan: Literal["error", "missing"] = "error",
        labels: Any = None,
        overlap: bool = True,
        kinds: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> MultimodalData:
        """Read AnnData. A sparse matrix stays sparse.

        Args:
            adata: An AnnData object.
            name: The name of the modality that is X.
            layer: The layer to read in place of X.
            obsm: Keys of obsm that are further modalities; or modality -> key.
            nan: "error", or "missing" where NaN marks entries that were not measured.
            labels: A column of obs, a mapping from ids to classes, or a sequence [N].
            overlap: Whether some sample must have two modalities, where there are two or more.
            kinds: Of data frames in obsm; see ``from_frames``.
            **settings: Further arguments of MultimodalData: modalities, groups, splits, card, seed, and covariates: columns of obs, or
                values; see ``from_frames``.

        Raises:
            InputError: No AnnData, an unknown key, and what ``from_frames`` refuses.
        """
        from polyvae.data.readers.omics import from_anndata
        from polyvae.data.regroup import asked_for, with_kinds

        settings |= {
            "name": name,
            "layer": layer,
            "obsm": obsm,
            "nan": nan,
            "labels": labels,
            "overlap": overlap,
        }
        return with_kinds(from_anndata(adata, asked=asked_for(kinds), **settings)[0], kinds)

    @classmethod
    def from_mudata(
        cls,
        mdata: Any,
        *,
        layer: str | Mapping[str, str] | None = None,
        nan: Literal["error", "missing"] = "error",
        labels: Any = None,
        overlap: bool = True,
        **settings: Any,
    ) -> MultimodalData:
        """Read MuData, with samples in its order. Sparse matrices stay sparse.

        Args:
            mdata: A MuData object.
            layer: The layer to read in place of X; or modality -> layer.
            nan: "error", or "missing" where NaN marks entries that were not measured.
            labels: A column of obs, a mapping from ids to classes, or a sequence [N].
            overlap: Whether some sample must have two modalities, where there are two or more.
            **settings: Further arguments of MultimodalData: modalities, groups, splits, card, seed.

        Raises:
            InputError: See ``from_anndata``.
        """
        from polyvae.data.readers.omics import from_mudata

        return from_mudata(mdata, layer=layer, nan=nan, labels=labels, overlap=overlap, **settings)[0]

    @classmethod
    def from_folder(
        cls,
        folder: _Path,
        *,
        name: str = "image",
        size: tuple[int, int] | None = None,
        tables: Mapping[str, Any] | None = None,
        id: str | None = None,
        nan: Literal["error", "missing"] = "error",
        labels: Any = None,
        overlap: bool = True,
        **settings: Any,
    ) -> MultimodalData:
        """Read the images in a folder, which are named by sample, beside tables.

        Args:
            folder: A folder with image files. The stem of a file is the id of the sample.
            name: The name of the modality of images, [C, H, W] with C = 1 or 3; bytes, scaled to 0 to 1.
            size: (H, W), to which images are resized. None: they must have one size.
            tables: Modality -> data frame or path of a table.
            id: The id column of the tables; see ``from_frames`` and ``from_csv``.
            nan: "error", or "missing" where NaN and null mark entries of tables that were not measured.
            labels: A column of the tables, a mapping from ids to classes, or a sequence [N]; see ``from_frames``.
            overlap: Whether some sample must have two modalities, where there are two or more.
            **settings: Further arguments of MultimodalData: modalities, groups, splits, card, seed.

        Raises:
            InputError: No images, images of several sizes, files that are no images of 8 bits, and what ``from_frames`` refuses.
        """
        from polyvae.data.readers.folders import from_folder

        return from_folder(
            folder,
            name=name,
            size=size,
            tables=tables,
            id=id,
            nan=nan,
            labels=labels,
            overlap=overlap,
            **settings,
        )
