"""Held-out scores, and a diagnosis of the fit."""
