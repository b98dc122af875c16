-- Debate: two sides argue over two rounds, each seeing what the other said; a judge decides.
--
--   halo -f examples/workflows/debate.sql
--
--   claims ─┬─ pro 1 ──┬─┬─ pro 2 ──┬─ judge
--           └─ contra 1 ┘ └─ contra 2 ┘
--
-- The two sides of a round do not read each other, so they run at the same time. The second round's prompts begin with
-- the first round's, so their tokens are in the cache.

CREATE TEMP TABLE claims AS
SELECT * FROM (VALUES (1, 'Cities should ban cars.'), (2, 'Homework helps children.')) c(id, claim);

CREATE TEMP PROMPT pro AS 'Claim: {{ claim }} Argue for it in one short sentence.';
CREATE TEMP PROMPT contra AS 'Claim: {{ claim }} Argue against it in one short sentence.';

CREATE TEMP AGENT judge RETURNS ENUM('for', 'against') WITH (
    system = 'You judge debates by their arguments alone.', max_step_tokens = 20);

WITH first_round AS (
    SELECT id, claim, LLM_MAP(pro, max_tokens => 24) AS pro_1, LLM_MAP(contra, max_tokens => 24) AS contra_1
    FROM claims
), second_round AS (
    SELECT *,
           LLM_MAP('Claim: {{ claim }} They said: {{ contra_1 }} You said: {{ pro_1 }} Answer in one short sentence.',
                   max_tokens => 24) AS pro_2,
           LLM_MAP('Claim: {{ claim }} They said: {{ pro_1 }} You said: {{ contra_1 }} Answer in one short sentence.',
                   max_tokens => 24) AS contra_2
    FROM first_round
)
SELECT id, claim, pro_2, contra_2,
       AGENT(judge, 'Who argued better? {{ claim, pro_1, contra_1, pro_2, contra_2 }}') AS verdict
FROM second_round
ORDER BY id;
