-- Debate: two agents argue for some rounds, each reading what was said before; a judge decides.
--
--   halo -f examples/workflows/debate.sql
--
--   claims ─┬─ AGENT advocate, for ─────┬─ said ─┐
--      ↑    └─ AGENT advocate, against ─┘        │      after the last round: AGENT judge
--      └──────────── next round ─────────────────┘
--
-- The rounds are a recursive query, so their number is a number. The two sides of a round do not read each other: they
-- run at the same time, for all claims at once. Both are one agent with an argument: all its conversations begin with
-- the same text, and a round's data with those of the round before.

CREATE OR REPLACE TEMP TABLE claims AS
SELECT * FROM (VALUES (1, 'Cities should ban cars.'), (2, 'Homework helps children.')) c(id, claim);

CREATE OR REPLACE TEMP AGENT advocate(side ENUM('for', 'against'))
RETURNS ENUM('cost', 'health', 'freedom', 'fairness', 'evidence') WITH (
    max_step_tokens = 20,
    system = 'You debate on the side that the data name. Name the ground you argue from; answer what was said before.');

CREATE OR REPLACE TEMP AGENT judge RETURNS STRUCT(winner ENUM('for', 'against'), close BOOLEAN) WITH (
    max_step_tokens = 40, system = 'You judge debates by their arguments alone.');

WITH RECURSIVE debate AS (
    SELECT id, claim, 0 AS round, '' AS said FROM claims
    UNION ALL
    SELECT id, claim, round + 1,
           concat(said, 'For: ', AGENT(advocate, 'Argue {{ claim, said }}', side => 'for'),
                  '. Against: ', AGENT(advocate, 'Argue {{ claim, said }}', side => 'against'), '. ')
    FROM debate
    WHERE round < 2
), judged AS (
    SELECT id, claim, said, AGENT(judge, 'Who argued better? {{ claim, said }}') AS verdict FROM debate WHERE round = 2
)
SELECT id, claim, trim(said) AS said, verdict.winner, verdict.close FROM judged ORDER BY id;
