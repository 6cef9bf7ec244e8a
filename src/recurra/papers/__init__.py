"""Experiments of papers: their runs as data, their published numbers, and the report beside them."""
