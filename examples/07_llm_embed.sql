-- LLM_EMBED: a text's vector, for search by meaning.
--
--   halo demo.duckdb -f examples/07_llm_embed.sql

-- The packages nearest in meaning to a question. The question's vector is computed once.
SELECT name, round(array_cosine_similarity(LLM_EMBED(summary), LLM_EMBED('talk to a web server')), 3) AS alike, summary
FROM packages
ORDER BY alike DESC NULLS LAST, name
LIMIT 5;

-- Vectors in a table are a FLOAT[n] column like any other: computed once, searched and joined without a model.
CREATE OR REPLACE TABLE package_vectors AS
SELECT name, LLM_EMBED(summary) AS v FROM packages;

SELECT a.name, b.name AS other, round(array_cosine_similarity(a.v, b.v), 3) AS alike
FROM package_vectors a JOIN package_vectors b ON a.name < b.name AND array_cosine_similarity(a.v, b.v) > 0.6
ORDER BY alike DESC, a.name, other
LIMIT 5;
