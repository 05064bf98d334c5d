"""Fixtures of the tests of memories."""

from small import bank_and_clusters, drawn_negatives, interclr

__all__ = ["bank_and_clusters", "drawn_negatives", "interclr"]
