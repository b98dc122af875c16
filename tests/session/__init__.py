"""Whole statements through connections."""
