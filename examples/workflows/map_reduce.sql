-- Map and reduce: every chunk of a long text on its own, then a tree of answers over answers.
--
--   halo -f examples/workflows/map_reduce.sql
--
--   texts ─ chunks ─ LLM_MAP ─ LLM_REDUCE, four answers at a time, level by level
--
-- Chunks of all texts are one operator: the model never waits for the end of a text. Equal chunks are asked once.

CREATE TEMP TABLE texts AS
SELECT * FROM (VALUES
    ('log', repeat('disk is nearly full. ', 6) || repeat('login failed. ', 4)),
    ('mail', 'Please send the invoice again. It went to the old address. Thank you.')) t(name, body);

WITH chunks AS (
    SELECT name, unnest(range(1, length(body) + 1, 60)) AS start, substr(body, start, 60) AS chunk FROM texts
), marked AS (
    SELECT name, start, LLM_MAP('What is this about? {{ chunk }}',
                                returns => 'ENUM(''storage'', ''access'', ''billing'', ''other'')') AS topic
    FROM chunks
)
SELECT name, count(*) AS chunks,
       LLM_REDUCE('These are the topics of the parts of one text. Which one is it mostly about?', topic ORDER BY start,
                  fan_in => 4, returns => 'ENUM(''storage'', ''access'', ''billing'', ''other'')') AS mostly
FROM marked
GROUP BY name
ORDER BY name;
