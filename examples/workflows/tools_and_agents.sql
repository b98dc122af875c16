-- Tools and agents: a query and a function as tools, an agent that uses them for every row, and what it did.
--
--   halo -f examples/workflows/tools_and_agents.sql
--
--   customers ─ AGENT accountant ─┬─ TOOL owed (SQL)
--                                 └─ TOOL weekday_of (Python)
--
-- All rows' conversations advance together. Equal calls of a tool are made once, whichever rows ask; the calls of a
-- query that wait at the same time are one join. A model can only call what is named here, with arguments of these
-- types; egress = false says that the function keeps what it is given.

CREATE OR REPLACE TEMP TABLE invoices AS
SELECT range AS id, ['Ann', 'Bo', 'Cy'][range % 3 + 1] AS customer, (range * 7) % 40 AS amount, range % 2 = 0 AS paid
FROM range(12);

CREATE OR REPLACE TEMP TABLE customers AS
SELECT * FROM (VALUES (1, 'Ann', 28), (2, 'Bo', 28), (3, 'Cy', 27)) c(id, name, due_day);

CREATE OR REPLACE TEMP TOOL owed(customer ENUM('Ann', 'Bo', 'Cy')) RETURNS INTEGER COMMENT 'what a customer owes'
AS SQL $$ SELECT coalesce(sum(amount), 0) FROM invoices WHERE customer = $customer AND NOT paid $$;

CREATE OR REPLACE TEMP TOOL weekday_of(year USMALLINT, month UTINYINT, day UTINYINT) RETURNS INTEGER IMMUTABLE
COMMENT 'the day of the week: 0 is Monday, 6 is Sunday' AS PYTHON 'calendar:weekday' WITH (egress = false);

-- 1. Tools are functions of SQL, too: no model is asked. Two customers have the same day: five
--    calls, not six.
SELECT name, owed(name) AS owes, weekday_of(2026, 11, due_day) > 4 AS weekend FROM customers ORDER BY id;

-- 2. The same tools in the hands of a model.
CREATE OR REPLACE TEMP AGENT accountant RETURNS ENUM('remind', 'wait') WITH (
    tools = [owed, weekday_of], max_steps = 3, max_parallel = 1, max_step_tokens = 48,
    system = 'You decide whether to remind a customer. Look up what is owed. Remind when it is more than 20.');

SELECT c.name, a.answer, a.steps, len(a.trace) AS events
FROM customers c, LATERAL AGENT(accountant, 'Decide about {{ name }}, due on 2026-11-{{ due_day }}.') a
ORDER BY c.id;

-- 3. Every step of every row of that statement, with the tools it called.
SELECT row_key, step, kind, model AS asked, status
FROM halo_calls()
WHERE query = (SELECT max(query) FROM halo_calls() WHERE agent = 'accountant')
ORDER BY row_key, step, kind;
