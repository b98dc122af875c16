"""Engines: how one request is run on vLLM, an OpenAI-compatible server, a Python callable, echo or replay."""
