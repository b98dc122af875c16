"""From SQL text to a bound logical plan: split, classify, parse, bind; the Lark grammars of our statements."""

if __name__ != "halo_sql.grammar":
    raise ImportError(
        "import halo_sql.grammar: the folder grammar/ is part of the package halo_sql, not a package of its own"
    )
