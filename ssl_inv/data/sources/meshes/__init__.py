"""Meshes rendered while training: a data source with exact 3-D poses and light, on the CPU, without OpenGL."""
