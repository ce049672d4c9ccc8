"""Processes and machines working on a study."""
