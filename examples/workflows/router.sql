-- Router: a cheap call decides which way a row goes; only that way is paid for.
--
--   halo -f examples/workflows/router.sql
--
--   tickets ─ LLM_CLASSIFY ─ CASE ─┬─ TOOL order_state       (no model at all)
--                                  ├─ AGENT clerk            (a conversation with a tool)
--                                  └─ LLM_MAP                (one call)
--
-- A branch of the CASE is computed for the rows that reach it and no others. Tickets 1 and 4 ask for the same order:
-- it is looked up once.

CREATE OR REPLACE TEMP TABLE tickets AS
SELECT * FROM (VALUES
    (1, 7, 'I have a question: where is my order?'),
    (2, 8, 'This is a complaint: the lamp is broken. I want my money back.'),
    (3, NULL, 'Nothing but praise for your shop!'),
    (4, 7, 'One more question: when will it be here?')) t(id, order_no, body);

CREATE OR REPLACE TEMP TOOL order_state(order_no INTEGER) RETURNS VARCHAR COMMENT 'where an order is'
AS SQL $$ SELECT CASE WHEN $order_no % 2 = 1 THEN 'on its way' ELSE 'delivered' END $$;

-- max_repeats = 2: the same question to a tool is answered once.
CREATE OR REPLACE TEMP AGENT clerk(order_no INTEGER) RETURNS ENUM('refund', 'repair', 'refuse') WITH (
    tools = [order_state], max_steps = 3, max_parallel = 1, max_repeats = 2, max_step_tokens = 48,
    system = 'You decide about complaints. Look at the state of the order first.');

WITH routed AS (
    SELECT *, LLM_CLASSIFY(body, ['question', 'complaint', 'praise']) AS route FROM tickets
)
SELECT id, route,
       CASE route
           WHEN 'question' THEN order_state(order_no)
           WHEN 'complaint' THEN AGENT(clerk, 'Decide about: {{ body }}', order_no => order_no)
           ELSE LLM_MAP('Thank for this in five words: {{ body }}', max_tokens => 12)
       END AS reply
FROM routed
ORDER BY id;
