-- LLM_SCORE: how probable the model finds yes, from 0 to 1.
--
--   halo demo.duckdb -f examples/06_llm_score.sql

-- The best three of some rows. One token is computed per row; the score is read from its probabilities.
SELECT name, round(LLM_SCORE('Text: {{ summary }}
Is this about testing?', on_error => 'null'), 3) AS score, summary
FROM packages
WHERE name LIKE 'p%' AND length(summary) < 60
ORDER BY score DESC NULLS LAST, name
LIMIT 3;
