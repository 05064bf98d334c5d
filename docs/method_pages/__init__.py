"""The pages of docs/objectives, made of docstrings, recipes, recorded results and the numbers of papers."""
