"""PEP 249, by the public conformance suite (module dbapi20 of the package dbapi-compliance)."""

from __future__ import annotations

import unittest

import dbapi20
import pytest

import halo_sql

FOUND = unittest.TestLoader().getTestCaseNames(dbapi20.DatabaseAPI20Test)


class TestConformance(dbapi20.DatabaseAPI20Test):  # type: ignore[misc]
    driver = halo_sql
    connect_args = ()
    connect_kw_args = {}  # noqa: RUF012 - the suite's attribute

    def test_nextset(self) -> None:
        """Optional, and not offered: a script's result is its last statement's."""
        assert not hasattr(halo_sql.Cursor, "nextset")

    def test_setoutputsize(self) -> None:
        con = halo_sql.connect()
        cursor = con.cursor()
        cursor.setoutputsize(1)
        assert cursor.execute("SELECT repeat('x', 10000)").fetchone() == ("x" * 10000,)
        con.close()


def test_the_suite_is_whole() -> None:
    assert len(FOUND) == 36


@pytest.mark.parametrize("name", halo_sql.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert hasattr(halo_sql, name)
