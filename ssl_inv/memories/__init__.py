"""What an objective keeps between steps.

One file for each memory, a subclass of `base.Memory`: queues, banks, clusters, graphs, vocabularies. `progress` counts
the steps, and `search` is the only file that imports faiss.
"""
