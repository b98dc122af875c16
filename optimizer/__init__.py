"""From a logical plan to a physical DAG: normalize, memo search, share, schedule."""

if __name__ != "halo_sql.optimizer":
    raise ImportError(
        "import halo_sql.optimizer: the folder optimizer/ is part of the package halo_sql, not a package of its own"
    )
