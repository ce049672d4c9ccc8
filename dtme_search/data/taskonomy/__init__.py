"""Taskonomy: its index, its targets, its files."""
