-- A first look: label, summarise and count real text with the bundled model.
--
--   make demo                                        installs, fetches the model once, runs this file
--   halo .venv/demo.duckdb -f examples/01_first_query.sql
--
-- The tables are made by examples/load_tables.py: the one-line summaries of the Python packages installed beside
-- HaloSQL, and the topics of Python's own manual. The bundled model has 135M parameters: it shows what the engine
-- does, not how well a model of your choice would answer (README.md, "Your own model").

-- A prompt with its instructions, kept in the database: the hole {{ summary }} is filled per row.
CREATE OR REPLACE PROMPT kind_of_software AS '{{ summary }}' WITH (system = 'You sort software. A library is code that other programs call: parsers, clients, bindings, data types. A framework is a structure that your own code is put into: web servers, plugin managers. A tool is a program that people run to do a job: compilers, formatters, test runners. Labels: library, framework, tool.');

-- 1. A label per row, held to an ENUM while the model decodes. The LIMIT is applied before the model is asked:
--    16 calls, not one per package.
SELECT name,
       LLM_MAP(kind_of_software, returns => 'ENUM(''library'', ''framework'', ''tool'')') AS kind,
       summary
FROM packages
WHERE length(summary) BETWEEN 30 AND 80
ORDER BY md5(name)
LIMIT 16;

-- 2. A condition: only the rows the model answers yes to. What SQL can decide is decided first, and costs nothing.
SELECT name, summary
FROM packages
WHERE length(summary) BETWEEN 20 AND 50
  AND name LIKE 'p%'
  AND LLM_FILTER('Text: {{ summary }}
Is this about testing?',
                 system => 'You answer yes or no.
Text: A test runner for teams. yes
Text: A fast JSON parser. no
Text: Mock objects for unit tests. yes
Text: HTTP client. no')
ORDER BY name;

-- 3. A typed extraction: a STRUCT per row, its fields ordinary columns.
SELECT name, extracted.kind, extracted.networked, summary
FROM (SELECT name, summary,
             LLM_MAP('{{ summary }}',
                     system => 'Extract what kind of software it is, and whether it talks over a network.',
                     examples => [{'input': 'A fast JSON parser', 'output': '{"kind": "parser", "networked": false}'},
                                  {'input': 'HTTP client with pooling', 'output': '{"kind": "client", "networked": true}'}],
                     returns => 'STRUCT(kind ENUM(''parser'', ''client'', ''library'', ''tool''), networked BOOLEAN)',
                     max_tokens => 40) AS extracted
      FROM packages
      ORDER BY md5(name)
      LIMIT 8);

-- 4. Free text: a sentence about a page of the manual. Only rows that pass the SQL filter are sent.
SELECT name,
       LLM_MAP('{{ regexp_replace(left(body, 400), ''[\s*]+'', '' '', ''g'') }}

Summarise this text in one short sentence.',
               system => 'You are a helpful writer. You answer in one short sentence.',
               max_tokens => 40,
               on_error => 'null') AS summary
FROM topics
WHERE name IN ('assert', 'await', 'bltin-ellipsis-object', 'attribute-references')
ORDER BY name;

-- 5. The first query's label for every package, counted: what it took, then the rows. In the plan: packages with the
--    same summary share one call, the labels of query 1 come from the response store, and the instructions are computed
--    once, not once per call (prompt tokens "cached"). Run the file again: no calls at all.
EXPLAIN ANALYZE
SELECT kind, count(*) AS packages
FROM (SELECT LLM_MAP(kind_of_software, returns => 'ENUM(''library'', ''framework'', ''tool'')') AS kind FROM packages)
GROUP BY kind
ORDER BY packages DESC;

SELECT kind, count(*) AS packages
FROM (SELECT LLM_MAP(kind_of_software, returns => 'ENUM(''library'', ''framework'', ''tool'')') AS kind FROM packages)
GROUP BY kind
ORDER BY packages DESC;
