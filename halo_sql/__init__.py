"""HaloSQL: the query engine for batch agentic workflows."""
