"""HaloSQL's own statements: one Lark grammar each, frozen syntax nodes, and ``parse_statement``."""
