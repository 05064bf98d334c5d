"""Images and views in columns: Parquet, Arrow and Feather files, and datasets that Hugging Face's `datasets` saved."""
