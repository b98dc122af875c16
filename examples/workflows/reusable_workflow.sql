-- A reusable workflow: a macro AS TABLE is a workflow with parameters, called like a table.
--
--   halo -f examples/workflows/reusable_workflow.sql
--
--   triage(labels, first) = tickets ─ LLM_CLASSIFY ─ TOOL team_of ─ AGENT dispatcher
--
-- The macro is written out where it is called, so the whole statement is planned as one: a filter around it moves into
-- it, columns that nobody reads are not computed, and two calls of it share their labels.

CREATE OR REPLACE TEMP TABLE tickets AS
SELECT * FROM (VALUES
    (1, 'An outage! The site is down for everybody.'),
    (2, 'My account has an old address.'),
    (3, 'A billing error: I was charged twice.')) t(id, body);

CREATE OR REPLACE TEMP TABLE teams AS
SELECT * FROM (VALUES ('outage', 'ops'), ('billing', 'finance'), ('account', 'desk')) x(label, team);

CREATE OR REPLACE TEMP TOOL team_of(label VARCHAR) RETURNS VARCHAR
AS SQL $$ SELECT team FROM teams WHERE label = $label $$;

CREATE OR REPLACE TEMP AGENT dispatcher RETURNS ENUM('now', 'today', 'this week') WITH (
    max_step_tokens = 20, system = 'You say when a team has to look at a ticket.');

CREATE OR REPLACE TEMP MACRO triage(labels, first := 1) AS TABLE
WITH labelled AS (
    SELECT id, body, LLM_CLASSIFY(body, labels) AS label FROM tickets WHERE id >= first
)
SELECT id, label, TOOL(team_of, label) AS team, AGENT(dispatcher, 'When? {{ label, body }}') AS look FROM labelled;

-- 1. As a table.
SELECT id, label, team, look FROM triage(['outage', 'billing', 'account']) ORDER BY id;

-- 2. Its columns that are not read cost nothing: no tool and no agent is called here.
SELECT label, count(*) AS tickets
FROM triage(['outage', 'billing', 'account'], first := 2)
GROUP BY label
ORDER BY label;

-- 3. Twice in a statement, with other parameters: tickets 2 and 3 are labelled once.
SELECT a.team, count(*) AS tickets, count(b.id) AS since_2
FROM triage(['outage', 'billing', 'account']) a
LEFT JOIN triage(['outage', 'billing', 'account'], first := 2) b USING (id)
GROUP BY a.team
ORDER BY a.team;
