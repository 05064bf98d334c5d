"""What an objective keeps between steps: queues, banks, clusters, graphs, vocabularies."""
