-- Planner, workers, merge: an agent splits each task, workers do the parts, one call puts them together.
--
--   halo -f examples/workflows/planner_workers_merge.sql
--
--   reviews ─ AGENT planner ─ unnest ─ AGENT worker (per part) ─ GROUP BY ─ LLM_REDUCE
--
-- Every node runs over all rows. A planner is asked once per distinct review (3 and 4 are equal), a worker once per
-- distinct part, although the parts are read twice below. All conversations of an agent begin with the same text.

CREATE OR REPLACE TEMP TABLE reviews AS
SELECT * FROM (VALUES
    (1, 'The hotel was clean and close to the station, but the breakfast was cold.'),
    (2, 'Friendly staff. The room was small and the price far too high.'),
    (3, 'Great location, terrible noise at night.'),
    (4, 'Great location, terrible noise at night.')) r(id, review);

-- [2] is a list of exactly two: what a plan may be is the type's business, not the prompt's.
CREATE OR REPLACE TEMP AGENT planner RETURNS ENUM('room', 'food', 'staff', 'price', 'place')[2] WITH (
    max_step_tokens = 40, system = 'You plan the reading of hotel reviews. Name the two aspects that matter most.');

CREATE OR REPLACE TEMP AGENT worker RETURNS ENUM('good', 'bad', 'unclear') WITH (
    max_step_tokens = 20, system = 'You read one aspect of a hotel review and say how it was.');

WITH parts AS (
    SELECT id, review, unnest(AGENT(planner, 'Plan the reading of: {{ review }}')) AS aspect FROM reviews
), verdicts AS (
    SELECT DISTINCT id, aspect, AGENT(worker, 'How was {{ aspect }} according to: {{ review }}') AS verdict FROM parts
), merged AS (
    SELECT id,
           list(aspect || ': ' || verdict ORDER BY aspect) AS said,
           LLM_REDUCE('How was the stay, all in all?', aspect || ': ' || verdict ORDER BY aspect,
                      returns => 'ENUM(''bad'', ''unclear'', ''good'')') AS stay
    FROM verdicts
    GROUP BY id
)
SELECT m.id, (SELECT count(*) FROM parts p WHERE p.id = m.id) AS planned, m.said, m.stay
FROM merged m
ORDER BY m.id;
