-- Tools and agents: a query and a function as tools, an agent that uses them for every row, and what it did.
--
--   halo -f examples/workflows/tools_and_agents.sql
--
--   customers ─ AGENT accountant ─┬─ TOOL owed (SQL)
--                                 └─ TOOL square_root (Python)
--
-- All rows' conversations advance together. Equal calls of a tool are made once, whichever rows ask; the calls of a
-- query that wait at the same time are one join.

CREATE TEMP TABLE invoices AS
SELECT range AS id, range % 3 AS customer, (range * 7) % 40 AS amount, range % 2 = 0 AS paid FROM range(12);

CREATE TEMP TABLE customers AS SELECT range AS id, ['Ann', 'Bo', 'Cy'][range + 1] AS name FROM range(3);

CREATE TEMP TOOL owed(customer INTEGER) RETURNS INTEGER COMMENT 'what a customer owes'
AS SQL $$ SELECT coalesce(sum(amount), 0) FROM invoices WHERE customer = $customer AND NOT paid $$;

CREATE TEMP TOOL square_root(n INTEGER) RETURNS INTEGER COMMENT 'the whole square root of a number'
AS PYTHON 'math:isqrt' WITH (egress = false);

-- Tools are functions of SQL, too.
SELECT name, owed(id) AS owed, square_root(owed(id)) AS root FROM customers ORDER BY id;

CREATE TEMP AGENT accountant RETURNS ENUM('remind', 'wait') WITH (
    tools = [owed, square_root], max_steps = 3, max_parallel = 1, max_step_tokens = 48,
    system = 'You decide whether to remind a customer. Look up what is owed first. Remind when it is more than 20.');

SELECT c.name, a.answer, a.steps, a.tokens
FROM customers c, LATERAL AGENT(accountant, 'Decide about customer {{ id }}, called {{ name }}.') a
ORDER BY c.id;

-- Every step of every row, with the tools it called.
SELECT row_key, step, kind, model AS asked, status
FROM halo_calls()
WHERE agent = 'accountant'
ORDER BY row_key, step, kind;
