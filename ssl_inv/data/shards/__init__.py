"""Shards: tar files whose samples are found by their place, on a disk or behind an address."""
