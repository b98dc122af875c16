-- Reflect: draft, criticise, revise; only drafts that the critic does not let pass are written anew.
--
--   halo -f examples/workflows/reflect.sql
--
--   notes ─ draft ─ verdict ─ CASE ─┬─ keep
--                                   └─ critique ─ revise
--
-- Inside CASE a call is made only for rows that reach it: a draft that passes costs two calls, one that does not four.

CREATE OR REPLACE TEMP TABLE notes AS
SELECT * FROM (VALUES
    (1, 'server down at 10:00, back at 10:20, cause unclear'),
    (2, 'meeting moved to Friday, fine with everybody')) n(id, note);

WITH drafts AS (
    SELECT id, note, LLM_MAP('Write one polite sentence for customers: {{ note }}', max_tokens => 30) AS draft
    FROM notes
), judged AS (
    SELECT *, LLM_MAP('{{ draft }}', system => 'You judge a sentence for customers.',
                      returns => 'ENUM(''unclear'', ''rude'', ''fine'')') AS verdict
    FROM drafts
), criticised AS (
    SELECT *, CASE WHEN verdict <> 'fine'
                   THEN LLM_MAP('This sentence is {{ verdict }}: {{ draft }} What is missing?', max_tokens => 20)
              END AS critique
    FROM judged
)
SELECT id, verdict, critique IS NOT NULL AS revised,
       CASE WHEN critique IS NULL THEN draft
            ELSE LLM_MAP('Write one polite sentence for customers: {{ note }} Mind: {{ critique }}', max_tokens => 30)
       END AS final
FROM criticised
ORDER BY id;
