"""What an objective keeps between steps.

One file for each memory, a subclass of `base.Memory`: queue, bank, clusters, graph, vocabulary, DINO's centre, random
directions. `progress` counts the steps, for masks too. `search` is the only file that imports faiss.
"""
