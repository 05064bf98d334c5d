"""One run in motion: the training step, its optimiser, checkpoints and log."""
