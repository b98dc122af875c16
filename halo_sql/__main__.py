"""``python -m halo_sql`` is the shell."""

from __future__ import annotations

import sys

from halo_sql.shell.main import main

if __name__ == "__main__":
    sys.exit(main())
