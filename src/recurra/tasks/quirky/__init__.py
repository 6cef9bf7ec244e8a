"""Statements that one speaker judges truthfully and another by a false rule, one file a kind."""
