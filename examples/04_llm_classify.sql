-- LLM_CLASSIFY: the label that fits best, or all that apply.
--
--   halo demo.duckdb -f examples/04_llm_classify.sql

-- Labels may have a description. The answer is always one of them.
SELECT name,
       LLM_CLASSIFY(summary,
                    [{'label': 'library', 'description': 'code that other programs call: parsers, clients, data types'},
                     {'label': 'tool', 'description': 'a program that people run: compilers, formatters, test runners'}],
                    on_error => 'null') AS kind,
       summary
FROM packages
WHERE length(summary) BETWEEN 30 AND 80
ORDER BY md5(name)
LIMIT 6;

-- As a group key. The labels are the same, so these answers come from the response store where they are known.
SELECT LLM_CLASSIFY(summary, ['python', 'library', 'tool'], on_error => 'null') AS kind, count(*) AS packages
FROM (SELECT summary FROM packages ORDER BY md5(name) LIMIT 8)
GROUP BY kind
ORDER BY packages DESC, kind;

-- Every label that applies, as a list.
SELECT name, LLM_CLASSIFY(summary, ['python', 'testing', 'web', 'data'], multi => true) AS topics
FROM packages
ORDER BY md5(name)
LIMIT 4;
