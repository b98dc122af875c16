"""The tables of the random statements: NULLs, duplicates, empty and awkward strings, nested types."""

from __future__ import annotations

SETUP = """
CREATE TABLE t (
    id INTEGER, grp INTEGER, word VARCHAR, flag BOOLEAN, day DATE, price DECIMAL(8, 2), ratio DOUBLE,
    info STRUCT(k VARCHAR, n INTEGER), tags VARCHAR[]
);
INSERT INTO t VALUES
    (1, 1, 'red', true, '2024-02-29', 12.50, 0.5, {'k': 'a', 'n': 1}, ['x', 'y']),
    (2, 1, 'red', false, '2024-01-01', 0.00, 0.1, {'k': NULL, 'n': 2}, []),
    (3, 2, '', NULL, NULL, -7.25, 1e20, NULL, NULL),
    (4, NULL, NULL, true, '1999-12-31', NULL, NULL, {'k': 'it''s', 'n': NULL}, ['', NULL]),
    (5, 2, 'it''s {{ braced }}', true, '2024-02-29', 12.50, -3.75, {'k': 'a', 'n': 1}, ['x', 'y']),
    (6, 3, 'žluť 漢字 🦆', false, '2024-03-01', 99999.99, 0.0, {'k': 'say "hi"', 'n': -5}, ['ž', 'it''s']),
    (7, 3, '12', NULL, '2024-01-01', 3.00, 0.5, {'k': '', 'n': 0}, ['12']),
    (8, 3, E'two\\nlines', true, NULL, 12.50, 2.0, {'k': 'b', 'n': 7}, ['z']);
CREATE TABLE u (uid INTEGER, id INTEGER, name VARCHAR, amount DECIMAL(8, 2), ok BOOLEAN);
INSERT INTO u VALUES
    (1, 1, 'red', 1.00, true), (2, 1, 'blue', 2.50, false), (3, 3, NULL, NULL, true), (4, NULL, 'ghost', 4.00, NULL),
    (5, 9, 'žluť', 12.50, false), (6, 6, '', 6.00, true), (7, 6, '12', 6.00, true);
CREATE TABLE "Odd Table" (rid INTEGER, grp INTEGER, "Some Label" VARCHAR, "select" INTEGER);
INSERT INTO "Odd Table" VALUES
    (1, 1, 'first', 10), (2, 2, 'it''s "second"', NULL), (3, 2, NULL, 10), (4, NULL, 'none', 40), (5, 4, '', 0);
"""
#: table -> its columns (name as written, kind); the first is unique
TABLES: dict[str, tuple[tuple[str, str], ...]] = {
    "t": (
        ("id", "int"),
        ("grp", "int"),
        ("word", "text"),
        ("flag", "bool"),
        ("day", "date"),
        ("price", "decimal"),
        ("ratio", "double"),
        ("info", "struct"),
        ("tags", "list"),
    ),
    "u": (("uid", "int"), ("id", "int"), ("name", "text"), ("amount", "decimal"), ("ok", "bool")),
    '"Odd Table"': (("rid", "int"), ("grp", "int"), ('"Some Label"', "text"), ('"select"', "int")),
}
