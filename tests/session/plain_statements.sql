SELECT 1
SELECT 1 AS a, 'x' b, NULL
SELECT 1;
SELECT 1; SELECT 2 AS two
;SELECT 3;;
SELECT 'it''s', "id" FROM t ORDER BY id
SELECT $$ a ; b $$, $x$ c ; $$ d $x$
SELECT /* ; */ 1 -- ; SELECT 2
SELECT E'a\nb\'c'
SELECT '{{ x }}', 'LLM_MAP(1)'
SELECT "LLM_MAP" FROM (SELECT 1 AS "LLM_MAP")
SELECT llm_map FROM (SELECT 1 AS llm_map)
SELECT model, prompt, tool, agent FROM (SELECT 1 model, 2 prompt, 3 tool, 4 agent)
SELECT * FROM t ORDER BY id
FROM t ORDER BY id
FROM t SELECT id, g ORDER BY id DESC LIMIT 2
SELECT * EXCLUDE (g) FROM t ORDER BY id
SELECT * REPLACE (id + 1 AS id) FROM t ORDER BY id
SELECT COLUMNS('i.*') FROM t ORDER BY id
SELECT t FROM t ORDER BY id
SELECT id + 1, upper(body), count(*) OVER () FROM t ORDER BY id
SELECT g, count(*), string_agg(body, ',' ORDER BY id) FROM t GROUP BY ALL ORDER BY ALL
SELECT g, count(*) FILTER (WHERE id > 1) FROM t GROUP BY g HAVING count(*) > 1
SELECT id FROM t QUALIFY row_number() OVER (PARTITION BY g ORDER BY id) = 1 ORDER BY id
SELECT DISTINCT ON (g) g, id FROM t ORDER BY g, id
SELECT a.id, b.id FROM t a JOIN t b ON a.id < b.id ORDER BY ALL
SELECT * FROM t LEFT JOIN k USING (id) ORDER BY id
SELECT * FROM t, LATERAL (SELECT t.id * 2 AS d) ORDER BY id
SELECT * FROM t POSITIONAL JOIN k
SELECT * FROM t WHERE id IN (SELECT id FROM k)
SELECT (SELECT max(id) FROM t), EXISTS (FROM k)
SELECT id FROM t UNION ALL SELECT id FROM k ORDER BY 1
SELECT id FROM t EXCEPT SELECT id FROM k ORDER BY 1
SELECT id FROM t INTERSECT SELECT id FROM k
SELECT 1 AS a UNION ALL BY NAME SELECT 2 AS b
VALUES (1, 'a'), (2, NULL)
TABLE k
WITH x AS (SELECT 1 AS a) SELECT a FROM x
WITH x AS MATERIALIZED (SELECT 1 AS a), y AS (FROM x) FROM y
WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5) FROM r
SELECT [1, 2, 3], {'a': 1, 'b': [2]}, MAP {'k': 1}
SELECT [x * 2 FOR x IN [1, 2, 3] IF x > 1]
SELECT list_transform([1, 2], lambda x: x + 1)
SELECT unnest([1, 2, 3])
SELECT unnest({'a': 1, 'b': 2})
SELECT 1::TINYINT, 2::HUGEINT, 3.5::DECIMAL(5, 2), 'x'::BLOB, DATE '2020-01-02', TIMESTAMP '2020-01-02 03:04:05'
SELECT INTERVAL 3 DAY, '00000000-0000-0000-0000-000000000001'::UUID, 'ok'::mood, '101'::BIT
SELECT CASE WHEN id > 1 THEN 'big' ELSE body END FROM t ORDER BY id
SELECT coalesce(body, g), nullif(id, 1), ifnull(body, 'n') FROM t ORDER BY id
SELECT id::VARCHAR || '!' FROM t ORDER BY id
SELECT m(1), m(1, b := 5), m(a := 3)
FROM tm(2) ORDER BY id
SELECT getvariable('x'), current_setting('threads') > 0
SELECT nextval('seq')
SELECT * FROM range(3)
SELECT * FROM generate_series(1, 6, 2) AS g(x)
SELECT * FROM v ORDER BY id
SELECT * FROM memory.main.t ORDER BY main.t.id
SELECT a: 1, b: 'x'
SELECT sum(id) FROM t
SELECT count(*) AS Count FROM t
SELECT 5 AS Count
SELECT true AS Success
SELECT * FROM t WHERE false
SELECT * FROM t USING SAMPLE 100%
PIVOT t ON g USING count(*) GROUP BY id ORDER BY id
PIVOT t ON g IN ('x') USING max(id)
UNPIVOT (SELECT 1 AS a, 2 AS b) ON a, b INTO NAME n VALUE v
SELECT * FROM t PIVOT (count(*) FOR g IN ('x', 'y')) ORDER BY id
SELECT column_name, column_type, min, max FROM (SUMMARIZE t)
SUMMARIZE SELECT 1 AS a
DESCRIBE t
DESCRIBE SELECT 1 AS a, 'x' AS b
DESC k
SHOW TABLES
SHOW t
SHOW ALL TABLES
SHOW DATABASES
INSERT INTO t VALUES (4, 'd', 'z')
INSERT INTO t (id) VALUES (5), (6)
INSERT INTO t SELECT id + 10, body, g FROM t
INSERT INTO t BY NAME SELECT 'n' AS body, 9 AS id
INSERT INTO t VALUES (8, 'h', DEFAULT) RETURNING id, upper(body) AS u
INSERT OR REPLACE INTO k VALUES (1, 'uno'), (2, 'dos')
INSERT OR IGNORE INTO k VALUES (1, 'uno'), (3, 'tres')
INSERT INTO k VALUES (1, 'x') ON CONFLICT DO NOTHING
INSERT INTO k VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET s = excluded.s || '!'
INSERT INTO k DEFAULT VALUES
INSERT INTO k (id) VALUES (7)
WITH x AS (SELECT 20 AS id) INSERT INTO k (id) SELECT id FROM x
UPDATE t SET body = 'new' WHERE id < 3
UPDATE t SET body = k.s FROM k WHERE t.id = k.id
UPDATE t SET body = upper(body) RETURNING id, body
UPDATE t SET body = 'none' WHERE false
DELETE FROM t WHERE id = 1
DELETE FROM t USING k WHERE t.id = k.id RETURNING t.id
DELETE FROM t
TRUNCATE k
MERGE INTO k USING t ON k.id = t.id WHEN MATCHED THEN UPDATE SET s = t.body WHEN NOT MATCHED THEN INSERT VALUES (t.id, t.body)
CREATE TABLE c AS SELECT * FROM t
CREATE TABLE c (a INTEGER, b VARCHAR DEFAULT 'x', CHECK (a > 0))
CREATE OR REPLACE TABLE k AS SELECT 9 AS id, 'n' AS s
CREATE TABLE IF NOT EXISTS t AS SELECT 1
CREATE TEMP TABLE t2 AS FROM t
CREATE TABLE model (prompt VARCHAR, tool INTEGER)
CREATE TABLE tool (a INTEGER)
CREATE VIEW w AS SELECT id FROM v
CREATE OR REPLACE VIEW v AS SELECT 1 AS one; FROM v
CREATE OR REPLACE MACRO m(a) AS a * 10; SELECT m(4)
CREATE MACRO agent(a) AS a || '?'; SELECT agent('who')
CREATE FUNCTION f(x) AS (SELECT max(id) + x FROM t); SELECT f(1)
CREATE INDEX i ON t (id)
CREATE SCHEMA s2; CREATE TABLE s2.x (a INTEGER); DROP SCHEMA s2 CASCADE
CREATE TYPE pair AS STRUCT(a INTEGER, b VARCHAR); SELECT {'a': 1, 'b': 'x'}::pair
ALTER TABLE t ADD COLUMN n INTEGER DEFAULT 3; FROM t ORDER BY id
ALTER TABLE t RENAME COLUMN body TO text; FROM t ORDER BY id
ALTER TABLE k RENAME TO kk; FROM kk
ALTER VIEW v RENAME TO vv; FROM vv ORDER BY id
DROP VIEW v
DROP TABLE IF EXISTS nosuch
DROP MACRO m
COMMENT ON TABLE t IS 'a table'
BEGIN; INSERT INTO t VALUES (100, 'x', 'y'); ROLLBACK
BEGIN TRANSACTION; DELETE FROM t; COMMIT; SELECT count(*) FROM t
BEGIN; UPDATE t SET id = 0; SELECT sum(id) FROM t
PREPARE p AS SELECT ? + 1
PREPARE p AS SELECT $1 || $2; EXECUTE p('a', 'b')
PREPARE p AS SELECT $n + 1; EXECUTE p(n := 4)
PREPARE p AS INSERT INTO k VALUES ($1, 'prepared'); EXECUTE p(50); EXECUTE p(51)
PREPARE p AS SELECT 1; DEALLOCATE p
EXPLAIN SELECT 1
SET VARIABLE y = 7; SELECT getvariable('y')
SET threads = 2
RESET threads
SET search_path = 's'; SELECT current_schema()
USE s; SELECT current_schema()
PRAGMA table_info('t')
PRAGMA version; SELECT 1
PRAGMA show_tables
CALL pragma_table_info('k')
CHECKPOINT
ATTACH ':memory:' AS o; CREATE TABLE o.x AS SELECT 1 AS a; FROM o.x
ATTACH ':memory:' AS o; USE o; SELECT current_database()
ATTACH ':memory:' AS o; DETACH o; SHOW DATABASES
COPY t TO '$DIR/t.csv'; SELECT count(*) FROM '$DIR/t.csv'
COPY (SELECT id FROM t ORDER BY id) TO '$DIR/u.parquet' (FORMAT parquet)
COPY t TO '$DIR/v.csv' (HEADER false); COPY t FROM '$DIR/v.csv'
SELECT count(*) > 0 FROM duckdb_functions()
SELECT table_name FROM information_schema.tables ORDER BY ALL
SELECT * FROM duckdb_settings() WHERE name = 'nosuch'
SELECT json_extract('{"a": [1, 2]}', '$.a[1]')
SELECT '{"a": 1}'::JSON -> 'a'
SELECT regexp_replace('abc', '(b)', '<\1>')
SELECT strftime(DATE '2020-02-03', '%d/%m/%Y')
