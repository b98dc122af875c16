-- Places where no column can be put beside the rows: outer joins, correlated sub-queries, LATERAL, recursion, lambdas,
-- holes over aggregates and windows, constants that DuckDB must know.

SELECT t.id, u.x FROM t LEFT JOIN u ON t.id = u.id AND LLM_FILTER('{{ u.x <> ''uy'' }}') ORDER BY t.id, u.x;
SELECT t.id, u.x FROM t LEFT JOIN u ON LLM_FILTER('{{ t.id = u.id }}') ORDER BY t.id, u.x;
SELECT t.id, u.x FROM t RIGHT JOIN u ON t.id = u.id AND LLM_FILTER('{{ t.a > 10 }}') ORDER BY t.id, u.x;
SELECT t.id, u.x FROM t FULL JOIN u ON t.id = u.id AND LLM_MAP('{{ u.x }}') = 'ux' ORDER BY t.id, u.x;
SELECT t.id, u.x FROM t FULL OUTER JOIN u ON LLM_MAP('{{ t.id }}') = LLM_MAP('{{ u.id }}') ORDER BY t.id, u.x;
SELECT t.id FROM t SEMI JOIN u ON t.id = u.id AND LLM_FILTER('{{ u.x = ''ux'' }}') ORDER BY id;
SELECT t.id FROM t ANTI JOIN u ON t.id = u.id AND LLM_FILTER('{{ u.x = ''ux'' }}') ORDER BY id;
SELECT t.id, u.x FROM t LEFT JOIN (u JOIN v ON LLM_FILTER('{{ u.id = v.k }}')) ON t.id = u.id ORDER BY t.id, u.x;
SELECT t.id, u.x, b.a FROM t LEFT JOIN u ON LLM_FILTER('{{ t.id = u.id }}') LEFT JOIN t b ON b.id = u.id AND LLM_FILTER('{{ b.a > 1 }}') ORDER BY ALL;
SELECT t.id, count(u.x) n FROM t LEFT JOIN u ON LLM_FILTER('{{ t.id = u.id }}') GROUP BY t.id HAVING LLM_FILTER('{{ count(u.x) < 2 }}') ORDER BY 1;
SELECT t.id, u.x FROM t ASOF JOIN u ON t.id >= u.id AND LLM_MAP('{{ t.id }}') <> '9' ORDER BY ALL;
SELECT a.id, b.id FROM t a LEFT JOIN t b ON a.id + 1 = b.id AND (LLM_FILTER('{{ a.a > 10 }}') OR LLM_FILTER('{{ b.a > 20 }}')) ORDER BY ALL;

SELECT id, (SELECT LLM_MAP('{{ u.x }}') FROM u WHERE u.id = t.id LIMIT 1) m FROM t WHERE id <> 2 ORDER BY id;
SELECT id, (SELECT max(LLM_MAP('{{ u.x }}')) FROM u WHERE u.id = t.id) m FROM t ORDER BY id;
SELECT id, (SELECT LLM_MAP('{{ t.body }}')) m FROM t ORDER BY id;
SELECT id, (SELECT LLM_MAP('{{ t.body || u.x }}') FROM u WHERE u.id = 1) m FROM t ORDER BY id;
SELECT id FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.id = t.id AND LLM_FILTER('{{ u.x = ''ux'' }}')) ORDER BY id;
SELECT id FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE LLM_FILTER('{{ u.id = t.id }}')) ORDER BY id;
SELECT id FROM t WHERE 'ux' IN (SELECT LLM_MAP('{{ u.x }}') FROM u WHERE u.id = t.id) ORDER BY id;
SELECT id FROM t WHERE LLM_MAP('{{ id }}') IN (SELECT LLM_MAP('{{ u.id }}') FROM u) ORDER BY id;
SELECT id FROM t WHERE id = ANY (SELECT LLM_MAP('{{ u.id }}')::INT FROM u WHERE u.id <= t.id) ORDER BY id;
SELECT id, (SELECT count(*) FROM u WHERE LLM_FILTER('{{ u.id = t.id }}')) n FROM t ORDER BY id;
SELECT id, ARRAY(SELECT LLM_MAP('{{ u.x }}') FROM u WHERE u.id = t.id ORDER BY u.x) m FROM t ORDER BY id;
SELECT id, (SELECT (SELECT LLM_MAP('{{ t.id || u.x }}')) FROM u WHERE u.id = t.id ORDER BY u.x LIMIT 1) m FROM t ORDER BY id;
SELECT id, CASE WHEN id = 1 THEN (SELECT LLM_MAP('{{ u.x }}') FROM u WHERE u.id = t.id LIMIT 1) ELSE body END m FROM t ORDER BY id;
SELECT CASE WHEN body IN (SELECT LLM_MAP('{{ s.body }}') FROM t s) THEN LLM_MAP('{{ id }}') END m FROM t ORDER BY id;

SELECT id, m FROM t, LATERAL (SELECT LLM_MAP('{{ t.body }}') m) ORDER BY id;
SELECT id, m FROM t CROSS JOIN LATERAL (SELECT LLM_MAP('{{ u.x || t.id }}') m FROM u WHERE u.id = t.id) ORDER BY id, m;
SELECT id, m FROM t LEFT JOIN LATERAL (SELECT LLM_MAP('{{ u.x }}') m FROM u WHERE u.id = t.id) ON TRUE ORDER BY id, m;
SELECT id, m FROM t LEFT JOIN LATERAL (SELECT x m FROM u WHERE LLM_FILTER('{{ u.id = t.id }}')) ON TRUE ORDER BY id, m;
SELECT id, m FROM t, (SELECT LLM_MAP('{{ t.id }}') m) ORDER BY id;
SELECT * FROM range(LLM_MAP('{{ 3 }}')::INT);
SELECT id, r FROM t, range(LLM_MAP('{{ t.id }}')::INT) g(r) ORDER BY id, r;
SELECT id, e FROM t, unnest([LLM_MAP('{{ body }}'), 'z']) x(e) ORDER BY id, e;

WITH RECURSIVE r AS (SELECT 1 n, 'a' v UNION ALL SELECT n + 1, LLM_MAP('{{ v || n }}') FROM r WHERE n < 5) SELECT * FROM r ORDER BY n;
WITH RECURSIVE r(n, v) AS (SELECT 1, LLM_MAP('{{ ''s'' }}') UNION ALL SELECT n + 1, v || n FROM r WHERE n < 4) SELECT * FROM r ORDER BY n;
WITH RECURSIVE r AS (SELECT 1 n UNION SELECT LLM_MAP('{{ n % 3 + 1 }}')::INT FROM r) SELECT * FROM r ORDER BY n;
WITH RECURSIVE r AS (SELECT 1 n UNION ALL SELECT n + 1 FROM r WHERE LLM_FILTER('{{ n < 4 }}')) SELECT * FROM r ORDER BY n;
WITH RECURSIVE r AS (SELECT id, body, 0 n FROM t WHERE id = 1 UNION ALL SELECT t.id, LLM_MAP('{{ t.body }}'), n + 1 FROM r JOIN t ON t.id = r.id + 1) SELECT * FROM r ORDER BY id;
WITH RECURSIVE r AS (SELECT 1 n, 'a' v UNION ALL SELECT n + 1, LLM_MAP('{{ v || n }}') FROM r WHERE n < 3) SELECT LLM_MAP('{{ v }}') m, n FROM r ORDER BY n;
WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3), q AS (SELECT LLM_MAP('{{ n }}') m FROM r) SELECT * FROM q ORDER BY m;
WITH RECURSIVE r(k, v) USING KEY (k) AS (SELECT id, body FROM t UNION SELECT k, LLM_MAP('{{ v || ''!'' }}') FROM r WHERE length(v) < 6) SELECT * FROM r ORDER BY k;

SELECT list_transform([body, 'k'], lambda x: LLM_MAP('{{ x }}')) m FROM t ORDER BY id;
SELECT list_filter(l, lambda x: LLM_FILTER('{{ x > 1 }}')) m FROM t ORDER BY id;
SELECT list_transform(l, lambda x, i: LLM_MAP('{{ x * i + id }}')) m FROM t ORDER BY id;
SELECT [LLM_MAP('{{ x }}') FOR x IN l IF x > 1] m FROM t ORDER BY id;
SELECT list_reduce(l, lambda acc, x: LLM_MAP('{{ acc + x }}')::INT) m FROM t WHERE len(l) > 0 ORDER BY id;

SELECT body, LLM_MAP('{{ sum(a) }}') m FROM t GROUP BY body ORDER BY 1;
SELECT LLM_MAP('{{ count(*) }}') m FROM t;
SELECT LLM_MAP('{{ max(body) }}') m, min(a) FROM t;
SELECT body, LLM_MAP('{{ string_agg(id, '','' ORDER BY id) }}') m FROM t GROUP BY body HAVING LLM_FILTER('{{ count(*) > 0 }}') ORDER BY 1;
SELECT id, LLM_MAP('{{ row_number() OVER (ORDER BY id DESC) }}') m FROM t ORDER BY id;
SELECT id, LLM_MAP('{{ sum(a) OVER (PARTITION BY body) }}') m FROM t QUALIFY LLM_FILTER('{{ rank() OVER (ORDER BY id) < 3 }}') ORDER BY id;
SELECT id, lag(LLM_MAP('{{ body }}')) OVER (ORDER BY id) m FROM t ORDER BY id;
SELECT LLM_MAP('{{ unnest(l) }}') m FROM t ORDER BY 1;
SELECT id, unnest([LLM_MAP('{{ body }}'), LLM_MAP('{{ id }}')]) m FROM t ORDER BY id, m;
SELECT LLM_MAP('{{ body }}') m, count(*) FROM t GROUP BY CUBE (body) ORDER BY ALL;
SELECT LLM_MAP('{{ body }}') m, LLM_MAP('{{ id }}') k, count(*) FROM t GROUP BY GROUPING SETS ((body), (id), ()) ORDER BY ALL;
SELECT LLM_MAP('{{ body }}') m, LLM_MAP('{{ GROUPING(body) }}') g, count(*) FROM t GROUP BY ROLLUP (body) ORDER BY ALL;
SELECT LLM_MAP('{{ body }}') m, count(*) FROM t GROUP BY ROLLUP (m) ORDER BY ALL;
SELECT LLM_MAP('{{ body }}') m, sum(a) FROM t GROUP BY ALL HAVING LLM_FILTER('{{ sum(a) > 10 }}') ORDER BY m;
SELECT LLM_MAP('{{ ''x'' }}') AS a, max(id) FROM t WHERE id > 9 GROUP BY ALL;
SELECT LLM_MAP('{{ ''x'' }}') AS a, count(*) FROM t;
SELECT LLM_MAP('{{ LLM_MAP(''{{ sum(a) }}'') }}') m, body FROM t GROUP BY body ORDER BY 2;

SELECT strptime('2020-01-02', LLM_MAP('{{ ''%Y-%m-%d'' }}')) AS d;
SELECT id, struct_extract(s, LLM_MAP('{{ ''x'' }}')) AS m FROM t ORDER BY id;
SELECT id, s[LLM_MAP('{{ ''y'' }}')] AS m FROM t ORDER BY id;
SELECT string_agg(body, LLM_MAP('{{ ''-'' }}') ORDER BY id) AS m FROM t;
SELECT date_part(['year', LLM_MAP('{{ ''month'' }}')], d) AS m FROM t ORDER BY id;
SELECT date_trunc(LLM_MAP('{{ ''month'' }}'), d) AS m FROM t ORDER BY id;
SELECT quantile_cont(a, LLM_MAP('{{ 0.5 }}')::DOUBLE) AS m FROM t;
SELECT id FROM t ORDER BY id LIMIT LLM_MAP('{{ 2 }}')::INT;
SELECT id FROM t ORDER BY id OFFSET LLM_MAP('{{ 2 }}')::INT;
SELECT id FROM t ORDER BY id LIMIT (SELECT LLM_MAP('{{ max(id) - 1 }}')::INT FROM t);

SELECT LLM_MAP('{{ a }}') m FROM t UNION ALL SELECT LLM_MAP('{{ sum(a) }}') FROM t ORDER BY 1;
(SELECT LLM_MAP('{{ max(a) }}') m FROM t) EXCEPT (SELECT LLM_MAP('{{ x }}') FROM u) ORDER BY 1;
SELECT * FROM (SELECT body, LLM_MAP('{{ count(*) }}') n FROM t GROUP BY body) q JOIN (SELECT LLM_MAP('{{ max(id) }}') k FROM u) w ON w.k > q.n ORDER BY 1;
WITH c AS MATERIALIZED (SELECT body, LLM_MAP('{{ count(*) }}') n FROM t GROUP BY body) SELECT a.n, b.body FROM c a JOIN c b USING (body) ORDER BY ALL;
WITH c AS (SELECT id, LLM_MAP('{{ body }}') m FROM t) SELECT t.id, (SELECT m FROM c WHERE c.id = t.id) k FROM t ORDER BY 1;
WITH c AS (SELECT id, LLM_MAP('{{ body }}') m FROM t) SELECT t.id, (SELECT LLM_MAP('{{ m }}') FROM c WHERE c.id = t.id) k FROM t ORDER BY 1;
WITH c AS (SELECT id, LLM_MAP('{{ body }}') m FROM t) SELECT t.id, c.m FROM t LEFT JOIN c ON t.id = c.id AND LLM_FILTER('{{ c.m <> ''two'' }}') ORDER BY 1;
SELECT LLM_MAP('{{ {''a'': max(id), ''b'': [min(id)]} }}') m FROM t;
SELECT id, COALESCE((SELECT LLM_MAP('{{ u.x }}') FROM u WHERE u.id = t.id AND u.id = 1), LLM_MAP('{{ body }}')) m FROM t ORDER BY id;
SELECT id FROM t WHERE (SELECT LLM_FILTER('{{ t.id > 1 }}')) AND LLM_FILTER('{{ id < 4 }}') ORDER BY id;
SELECT id, LLM_MAP('{{ #1 }}') m FROM t ORDER BY id;

SELECT a AS localtime FROM (VALUES ('2018-01-01'), ('2022-01-01')) q(a) WHERE LLM_FILTER('{{ localtime >= ''2020-01-01'' }}');
SELECT "localtime", LLM_MAP('{{ localtime }}') m FROM (VALUES ('2018-01-01'), ('2022-01-01')) q(localtime) ORDER BY 1;
