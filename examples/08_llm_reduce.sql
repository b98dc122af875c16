-- LLM_REDUCE: one answer per group.
--
--   halo .venv/demo.duckdb -f examples/08_llm_reduce.sql
--
-- The tables are made by examples/load_tables.py. With HALO_DEFAULT_MODEL=echo every answer is the message that a
-- model would get: the prompt, a blank line, the inputs of the group, one per line.

-- 1. A group's texts in one prompt. GROUP BY, ORDER BY inside the call and ordinary aggregates beside it are DuckDB's.
SELECT left(name, 1) AS letter,
       count(*) AS packages,
       LLM_REDUCE('Here are descriptions of software. Describe all of them together in one short sentence.',
                  summary ORDER BY name, max_tokens => 40) AS together
FROM packages
WHERE left(name, 1) IN ('a', 'p') AND length(summary) < 80
GROUP BY letter
ORDER BY letter;

-- 2. A typed answer: every answer of the group is held to the ENUM while the model decodes.
SELECT name LIKE 'py%' AS py,
       LLM_REDUCE('What is most of this software for?', DISTINCT summary ORDER BY summary,
                  returns => 'ENUM(''testing'', ''data'', ''web'', ''packaging'')', on_error => 'null') AS purpose
FROM packages
WHERE length(summary) < 60
GROUP BY ALL
ORDER BY py;

-- 3. Several inputs are one JSON object per row; FILTER takes rows out of one reduction only.
SELECT LLM_REDUCE('Which of these is for testing? Name one.', name, summary ORDER BY name, max_tokens => 16)
           FILTER (WHERE length(summary) < 45) AS named
FROM packages;

-- 4. A tree: at most eight inputs in a request, then their answers. The plan says how many requests and levels that
--    is expected to take; a group too large for the model's context is folded without being told to.
EXPLAIN SELECT LLM_REDUCE('Summarise in one sentence.', left(body, 200) ORDER BY name, fan_in => 8, max_tokens => 40)
FROM topics
WHERE length(body) BETWEEN 400 AND 900;

SELECT LLM_REDUCE('Summarise in one sentence.', left(body, 200) ORDER BY name, fan_in => 8, max_tokens => 40) AS summary
FROM topics
WHERE length(body) BETWEEN 400 AND 900;

-- 5. Over other answers: a label per row, then one answer over the rows of each label.
SELECT label, count(*) AS packages,
       LLM_REDUCE('Give these a title of three words.', summary ORDER BY name, max_tokens => 12) AS title
FROM (SELECT name, summary,
             LLM_MAP('{{ summary }}', returns => 'ENUM(''library'', ''tool'')', on_error => 'null') AS label
      FROM packages
      WHERE length(summary) BETWEEN 30 AND 40)
WHERE label IS NOT NULL
GROUP BY label
ORDER BY label;
