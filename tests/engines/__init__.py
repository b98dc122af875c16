"""Tests of the engines and of the channels to them."""
