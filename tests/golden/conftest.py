"""Fixtures of the tests against the authors' numbers."""

from small import bank_and_clusters, drawn_negatives, interclr, same_processes, seq_jepa

__all__ = ["bank_and_clusters", "drawn_negatives", "interclr", "same_processes", "seq_jepa"]
