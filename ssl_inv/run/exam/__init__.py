"""Several encoders examined side by side: one table, one page, and whether they differ."""
