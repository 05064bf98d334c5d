"""Fixtures of the tests of memories."""

from small import bank_and_clusters, drawn_negatives, interclr, same_processes

__all__ = ["bank_and_clusters", "drawn_negatives", "interclr", "same_processes"]
