"""Intermediate representation: types, expressions, prompts, logical and physical plans. Pure data, no I/O."""
