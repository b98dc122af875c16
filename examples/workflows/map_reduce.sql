-- Map and reduce: every part of a long text on its own, then a tree of answers over answers.
--
--   halo -f examples/workflows/map_reduce.sql
--
--   texts ─ split ─ LLM_MAP ─ GROUP BY ─ LLM_REDUCE, four answers at a time, level by level
--
-- The parts of all texts are one operator: the model never waits for the end of a text. Equal parts are asked once:
-- 13 parts, 5 calls.

CREATE OR REPLACE TEMP TABLE texts AS
SELECT * FROM (VALUES
    ('log', repeat('the disk is nearly full. ', 6) || repeat('a login failed. ', 4)),
    ('mail', 'the invoice is wrong. please send the invoice again. my login failed, too.')) t(name, body);

WITH parts AS (
    SELECT name, unnest(sentences) AS part, generate_subscripts(sentences, 1) AS place
    FROM (SELECT name, string_split(rtrim(body, '. '), '. ') AS sentences FROM texts)
), marked AS (
    SELECT name, place, LLM_MAP('{{ part }}', system => 'You say what a sentence is about.',
                                returns => 'ENUM(''disk'', ''login'', ''invoice'')') AS topic
    FROM parts
)
SELECT name, count(*) AS parts, count(DISTINCT topic) AS topics,
       LLM_REDUCE('Topics of the parts of one text. Which one is it mostly about?', topic ORDER BY place,
                  fan_in => 4, returns => 'ENUM(''disk'', ''login'', ''invoice'')') AS mostly
FROM marked
GROUP BY name
ORDER BY name;
