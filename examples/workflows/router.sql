-- Router: a cheap call decides which way a row goes; only that way is paid for.
--
--   halo -f examples/workflows/router.sql
--
--   tickets ─ LLM_CLASSIFY ─ CASE ─┬─ TOOL order_state       (no model at all)
--                                  ├─ AGENT clerk            (a conversation with a tool)
--                                  └─ LLM_MAP                (one call)
--
-- Every branch of the CASE is a column of the rows that reach it. The branches run side by side.

CREATE TEMP TABLE tickets AS
SELECT * FROM (VALUES
    (1, 7, 'Where is my order?'),
    (2, 8, 'I want my money back, the lamp is broken.'),
    (3, NULL, 'You have a lovely shop!')) t(id, order_id, body);

CREATE TEMP TOOL order_state(order_id INTEGER) RETURNS VARCHAR COMMENT 'where an order is'
AS SQL $$ SELECT CASE WHEN $order_id % 2 = 1 THEN 'on its way' ELSE 'delivered' END $$;

CREATE TEMP AGENT clerk(order_id INTEGER DEFAULT NULL) RETURNS ENUM('refund', 'repair', 'refuse') WITH (
    tools = [order_state], max_steps = 3, max_step_tokens = 40,
    system = 'You decide about complaints. Look at the state of the order first.');

WITH routed AS (
    SELECT *, LLM_CLASSIFY(body, ['question', 'complaint', 'praise']) AS route FROM tickets
)
SELECT id, route,
       CASE route
           WHEN 'question' THEN order_state(order_id)
           WHEN 'complaint' THEN AGENT(clerk, 'Decide: {{ body }}', order_id => order_id)
           ELSE LLM_MAP('Thank for this in five words: {{ body }}', max_tokens => 12)
       END AS reply
FROM routed
ORDER BY id;
