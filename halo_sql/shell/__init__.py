"""The ``halo`` shell."""
