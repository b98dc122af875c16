-- Planner, workers, merge: an agent splits each task, workers do the parts, one call puts them together.
--
--   halo -f examples/workflows/planner_workers_merge.sql
--
--   reviews ─ AGENT planner ─ unnest ─ AGENT worker (per part) ─ GROUP BY ─ LLM_REDUCE
--
-- The planner is asked once per review, a worker once per distinct part. Workers of the first reviews run while the
-- planner still works on the last ones. All conversations of an agent begin with the same text, which is computed once.

CREATE TEMP TABLE reviews AS
SELECT * FROM (VALUES
    (1, 'The hotel was clean and close to the station, but the breakfast was cold.'),
    (2, 'Friendly staff. The room was small and the price far too high.'),
    (3, 'Great location, terrible noise at night.')) r(id, review);

CREATE TEMP AGENT planner RETURNS ENUM('room', 'food', 'staff', 'price', 'place')[2] WITH (
    system = 'You plan the reading of hotel reviews. Name the two aspects that a review says most about.',
    max_step_tokens = 40);

CREATE TEMP AGENT worker RETURNS ENUM('good', 'bad', 'unclear') WITH (
    system = 'You read one aspect of a hotel review and say how it was.', max_step_tokens = 20);

WITH plans AS (
    SELECT id, review, AGENT(planner, 'Which two aspects does this review speak of? {{ review }}') AS aspects
    FROM reviews
), parts AS (
    SELECT id, review, unnest(list_distinct(aspects)) AS aspect FROM plans
), verdicts AS (
    SELECT id, aspect, AGENT(worker, 'How was {{ aspect }} according to: {{ review }}') AS verdict FROM parts
)
SELECT id,
       list(aspect || ': ' || verdict ORDER BY aspect) AS parts,
       LLM_REDUCE('Was the stay good or bad all in all?', aspect || ': ' || verdict ORDER BY aspect,
                  returns => 'ENUM(''good'', ''bad'')') AS stay
FROM verdicts
GROUP BY id
ORDER BY id;
