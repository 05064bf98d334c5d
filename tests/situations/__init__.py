"""Data as people have it: small data sets with their right reading, and what four readers make of them."""
