-- LLM_RANK: the rows that a criterion fits best.
--
--   halo .venv/demo.duckdb -f examples/09_llm_rank.sql
--
-- The tables are made by examples/load_tables.py. With HALO_DEFAULT_MODEL=echo rows are ranked by the last number in
-- the criterion: what the orders below mean can be read without a model.

-- 1. The three rows to which it applies most. With a LIMIT this is a top-k: a grade per row, the best kept.
SELECT name, summary
FROM packages
WHERE length(summary) BETWEEN 25 AND 40
ORDER BY LLM_RANK('How much has this to do with testing? {{ summary }}') DESC, name
LIMIT 3;

-- 2. The same by comparisons: fewer calls, each over several rows; the best of four, then the best of the best.
SELECT name, summary
FROM packages
WHERE length(summary) BETWEEN 25 AND 40
ORDER BY LLM_RANK('This has to do with testing: {{ summary }}', method => 'tournament') DESC, name
LIMIT 3;

-- 3. What each takes, before it costs anything.
EXPLAIN SELECT name FROM packages
ORDER BY LLM_RANK('How much has this to do with testing? {{ summary }}', method => 'score') DESC LIMIT 3;

EXPLAIN SELECT name FROM packages
ORDER BY LLM_RANK('How much has this to do with testing? {{ summary }}', method => 'tournament') DESC LIMIT 3;

-- 4. The grade itself, a DOUBLE; rows that fail have none.
SELECT name, LLM_RANK('How long is this text, of 100? {{ summary }} {{ length(summary) }}', on_error => 'null') AS grade
FROM packages
WHERE length(summary) BETWEEN 10 AND 20
ORDER BY grade DESC NULLS LAST, name
LIMIT 5;

-- 5. Groups can be ranked, too: only the two that are returned are summed up.
SELECT letter, packages,
       LLM_MAP('{{ packages }} packages begin with {{ letter }}. Say so in a sentence.', max_tokens => 24) AS said
FROM (SELECT left(name, 1) AS letter, count(*) AS packages FROM packages GROUP BY letter)
ORDER BY LLM_RANK('How many are {{ packages }}?') DESC, letter
LIMIT 2;
