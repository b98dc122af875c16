-- Vote: the same question answered several times; the majority wins, and how clearly is a column.
--
--   halo -f examples/workflows/vote.sql
--
--   messages × voters ─ LLM_MAP ─ GROUP BY ─ mode()
--
-- Equal messages are asked once per voter (there are two 'Thank you!' here). Counting is SQL's, and costs nothing.

CREATE OR REPLACE TEMP TABLE messages AS
SELECT * FROM (VALUES
    (1, 'Urgent: my parcel never arrived! This is urgent.'),
    (2, 'Thank you!'),
    (3, 'Where is my invoice? I can wait.'),
    (4, 'Thank you!')) m(id, body);

CREATE OR REPLACE TEMP TABLE voters AS
SELECT * FROM (VALUES
    ('You are strict: in doubt it is urgent.'),
    ('You are calm: most things can wait.'),
    ('You look at the facts alone: what asks for nothing can wait.')) v(voter);

-- 1. Voters that differ by what they are told. They could as well differ by model: LLM_MAP(…, model => a).
WITH votes AS (
    SELECT id, body,
           LLM_MAP('{{ voter }} A customer writes: {{ body }}', returns => 'ENUM(''urgent'', ''wait'')') AS vote
    FROM messages, voters
)
SELECT id, body, mode(vote ORDER BY vote) AS decision,
       count(*) FILTER (WHERE vote = 'urgent') AS urgent, count(*) AS votes
FROM votes
GROUP BY ALL
ORDER BY id;

-- 2. One voter, asked with three seeds (self-consistency). With a seed an answer above temperature 0 is deterministic,
--    so it is stored and shared like any other.
CREATE OR REPLACE TEMP PROMPT urgency AS 'Urgent, or can it wait? {{ body }}';

WITH votes AS (
    SELECT id, unnest([
        LLM_MAP(urgency, returns => 'ENUM(''wait'', ''urgent'')', temperature => 1, seed => 1),
        LLM_MAP(urgency, returns => 'ENUM(''wait'', ''urgent'')', temperature => 1, seed => 2),
        LLM_MAP(urgency, returns => 'ENUM(''wait'', ''urgent'')', temperature => 1, seed => 3)]) AS vote
    FROM messages
)
SELECT id, mode(vote ORDER BY vote) AS decision, count(DISTINCT vote) = 1 AS unanimous, count(*) AS votes
FROM votes
GROUP BY id
ORDER BY id;
