-- LLM_EXTRACT: fields out of a text, as a STRUCT.
--
--   halo demo.duckdb -f examples/05_llm_extract.sql

-- The type says which fields; what the text does not tell is NULL. (The echo model, which answers with its prompt, has nothing to
-- extract from plain text: on_error => 'null' keeps its rows.)
SELECT name, e.topic, e.language, e.networked
FROM (SELECT name, LLM_EXTRACT(summary, 'STRUCT(topic VARCHAR, "language" VARCHAR, networked BOOLEAN)',
                               max_tokens => 60, on_error => 'null') AS e
      FROM packages
      ORDER BY md5(name)
      LIMIT 4);

-- Into a table, each field an ordinary column. The LIMIT stands below the calls: four of them are made.
CREATE OR REPLACE TABLE package_facts AS
SELECT name, unnest(LLM_EXTRACT(summary, 'STRUCT(kind ENUM(''library'', ''tool''), words VARCHAR[])', max_tokens => 80, on_error => 'null'))
FROM (SELECT name, summary FROM packages WHERE length(summary) BETWEEN 30 AND 40 ORDER BY md5(name) LIMIT 4);
