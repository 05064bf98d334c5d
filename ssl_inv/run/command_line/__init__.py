"""The commands of `ssl-inv`: their arguments, and what they refuse before anything heavy is imported."""
