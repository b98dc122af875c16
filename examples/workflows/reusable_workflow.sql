-- A reusable workflow: a macro AS TABLE is a workflow with parameters, called like a table.
--
--   halo -f examples/workflows/reusable_workflow.sql
--
--   triage(minimum) = tickets ─ LLM_SCORE ─ filter ─ LLM_CLASSIFY ─ TOOL team_of
--
-- The macro is written out where it is called, so the whole statement is planned as one: the two calls of triage()
-- below share their scores and labels.

CREATE TEMP TABLE tickets AS
SELECT * FROM (VALUES
    (1, 'The site is down for everybody!'),
    (2, 'Please change my address.'),
    (3, 'I was charged twice.')) t(id, body);

CREATE TEMP TABLE teams AS
SELECT * FROM (VALUES ('outage', 'ops'), ('billing', 'finance'), ('account', 'desk')) x(label, team);

CREATE TEMP TOOL team_of(label VARCHAR) RETURNS VARCHAR AS SQL $$ SELECT team FROM teams WHERE label = $label $$;

CREATE TEMP MACRO triage(minimum) AS TABLE
WITH scored AS (
    SELECT id, body, LLM_SCORE('Is this urgent? {{ body }}') AS urgency FROM tickets
), labelled AS (
    SELECT *, LLM_CLASSIFY(body, ['outage', 'billing', 'account']) AS label FROM scored WHERE urgency >= minimum
)
SELECT id, body, label, TOOL(team_of, label) AS team, urgency FROM labelled;

SELECT id, label, team FROM triage(0.0) ORDER BY id;

SELECT a.team, count(*) AS tickets, count(b.id) AS urgent
FROM triage(0.0) a LEFT JOIN triage(0.5) b USING (id)
GROUP BY ALL
ORDER BY ALL;
