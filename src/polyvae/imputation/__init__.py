"""Imputation of tables: how it is scored, and how several imputations are pooled."""
