-- LLM_FILTER: a condition in plain words.
--
--   halo demo.duckdb -f examples/03_llm_filter.sql

-- What SQL can decide is decided first and costs nothing: only the rows that are left are asked.
SELECT name, summary
FROM packages
WHERE length(summary) BETWEEN 20 AND 45
  AND name < 'f'
  AND LLM_FILTER('Text: {{ summary }}
Is this about the web?', on_error => 'null')
ORDER BY name;
