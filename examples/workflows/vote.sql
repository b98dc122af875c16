-- Vote: several voters with different eyes answer the same question; the majority wins.
--
--   halo -f examples/workflows/vote.sql
--
--   messages × voters ─ LLM_MAP ─ GROUP BY ─ mode()
--
-- A voter is a text in front of the question. Equal messages are asked once per voter (there are two 'Thank you!'
-- here). Counting is SQL's.

CREATE TEMP TABLE messages AS
SELECT * FROM (VALUES
    (1, 'My parcel never arrived.'),
    (2, 'Thank you!'),
    (3, 'Where is my invoice?'),
    (4, 'Thank you!')) m(id, body);

CREATE TEMP TABLE voters AS
SELECT * FROM (VALUES ('an impatient clerk'), ('a careful lawyer'), ('a friendly neighbour')) v(voter);

WITH votes AS (
    SELECT id, body, voter,
           LLM_MAP('You are {{ voter }}. Does this message need an answer? {{ body }}',
                   returns => 'ENUM(''yes'', ''no'')') AS vote
    FROM messages, voters
)
SELECT id, body, mode(vote ORDER BY vote) AS decision, count(*) FILTER (WHERE vote = 'yes') AS yes, count(*) AS votes
FROM votes
GROUP BY ALL
ORDER BY id;
