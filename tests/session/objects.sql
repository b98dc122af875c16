CREATE TABLE orders AS SELECT 1 AS id, 'a' AS body;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE MODEL "My ""M""" FROM 'http://127.0.0.1:9/v1' WITH (model = 'it''s', headers = {'X-A': 'b'});
CREATE MODEL m FROM 'bundled:smollm2' USING vllm WITH (max_model_len = 1024);
COMMENT ON MODEL m IS 'it''s -- small';
CREATE PROMPT p AS $$ "It's" {{ body }}; $$ WITH (system = '');
CREATE TOOL t(id INTEGER, m mood DEFAULT 'sad', l VARCHAR[] DEFAULT ['a', 'b'], "a b" STRUCT(x INTEGER) DEFAULT {'x': 1})
    RETURNS TABLE ("body" VARCHAR, "two words" mood) STABLE COMMENT 'x'
    AS SQL $$ SELECT body, $m FROM orders -- it's
              WHERE id = $id $$;
CREATE TOOL h(city VARCHAR) RETURNS JSON AS HTTP POST 'https://h/{{ city }}' WITH (body = '{{ city }}', timeout_s = 0.5);
CREATE TOOL py() RETURNS DOUBLE IMMUTABLE AS PYTHON 'math:sqrt';
CREATE TOOL mcp() RETURNS DOUBLE AS MCP 'npx a b' 'c';
CREATE AGENT a(x TIMESTAMP WITH TIME ZONE) RETURNS STRUCT(a VARCHAR)
    WITH (model = "My ""M""", tools = [t, h], max_steps = 3);
CREATE AGENT nothing WITH (max_steps = 1);
ALTER AGENT nothing RESET (max_steps);
CREATE TEMP PROMPT brief AS 'x';
