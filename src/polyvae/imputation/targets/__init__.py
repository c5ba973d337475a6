"""Classes, numbers and times to an event that are predicted."""
