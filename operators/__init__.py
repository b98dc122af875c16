"""Physical operators: one async generator of Arrow RecordBatches per physical node."""

if __name__ != "halo_sql.operators":
    raise ImportError(
        "import halo_sql.operators: the folder operators/ is part of the package halo_sql, not a package of its own"
    )
