-- LLM_MAP: a text, or a value of any type, per row.
--
--   halo demo.duckdb -f examples/02_llm_map.sql

-- Free text. The hole {{ summary }} is filled per row; equal rows share one call.
SELECT name, LLM_MAP('Software: {{ summary }}
Say in three words what it does.', max_tokens => 12) AS in_short
FROM packages
ORDER BY md5(name)
LIMIT 4;

-- A typed answer: the model is held to the type while it decodes, and the column has that type.
SELECT name, LLM_MAP('{{ summary }}
How many words has this text?', returns => 'UTINYINT', max_tokens => 6, on_error => 'null') AS words
FROM packages
ORDER BY md5(name)
LIMIT 4;
