"""Measurements: each module is a command that prints a table, peers beside us in the same run."""
