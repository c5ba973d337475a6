"""The embedding, factors that can be interpreted, variance explained, and attributions."""
