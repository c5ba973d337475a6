"""The methods that predict what is missing, and their combination."""
