"""Data sources, each an object-and-view table of images."""
