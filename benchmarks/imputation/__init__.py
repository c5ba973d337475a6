"""Imputation of hidden modalities, on real tables: simple methods, factor models, and polyvae, by one protocol."""
