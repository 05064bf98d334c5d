"""Augmentations: they make views of decoded images on the device and record how."""
