"""One run in motion: the training step, its optimiser, checkpoints and log."""

LOGGERS = {name: f"loggers:{name}" for name in ("csv", "mlflow", "tensorboard", "trackio", "wandb")}
"""Loggers by their names in recipes."""

CALLBACKS = {name: f"callbacks:{name}" for name in ("DeviceStatsMonitor", "ModelCheckpoint", "ModelSummary", "Timer")}
"""Callbacks by their names in recipes. All of these are Lightning's."""
