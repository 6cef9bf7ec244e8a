"""Data and metric, one file a task."""
