-- Reflect: draft, criticise, revise; only drafts that fail the check are written anew.
--
--   halo -f examples/workflows/reflect.sql
--
--   notes ─ draft ─ LLM_FILTER check ─ CASE ─┬─ keep
--                                            └─ critique ─ revise
--
-- Inside CASE a call is made only for rows that reach it: a draft that passes costs two calls, one that does not four.

CREATE TEMP TABLE notes AS
SELECT * FROM (VALUES (1, 'server down 10:00, back 10:20, disk full'), (2, 'meeting moved to Friday')) n(id, note);

WITH drafts AS (
    SELECT id, note, LLM_MAP('Write one polite sentence for customers: {{ note }}', max_tokens => 30) AS draft
    FROM notes
), checked AS (
    SELECT *, LLM_FILTER('Is this sentence polite and complete? {{ draft }}') AS passes FROM drafts
), criticised AS (
    SELECT *,
           CASE WHEN NOT passes
                THEN LLM_MAP('What is missing in this sentence about "{{ note }}"? {{ draft }}', max_tokens => 20)
           END AS critique
    FROM checked
)
SELECT id, passes,
       CASE WHEN passes THEN draft
            ELSE LLM_MAP('Write one polite sentence for customers: {{ note }} Mind: {{ critique }}', max_tokens => 30)
       END AS final
FROM criticised
ORDER BY id;
