"""Tests of the tools and of the desk in front of them."""
