-- Agents that call agents: an editor asks a critic and a speaker, each an agent of its own, before it decides.
--
--   halo -f examples/workflows/agents_calling_agents.sql
--
--   slogans ─ AGENT editor ─┬─ AGENT critic
--                           └─ AGENT speaker ─ TOOL is_simple (SQL)
--
-- An inner agent is a tool of the outer one, with its own model, tools and limits. Its conversations, too, run for all
-- rows at once, and equal ones once. What an inner agent may send out, the outer one must allow.

CREATE OR REPLACE TEMP TABLE slogans AS
SELECT * FROM (VALUES (1, 'Fresh bread all day'), (2, 'Cheap and cheerful'), (3, 'Fresh bread all day')) s(id, slogan);

CREATE OR REPLACE TEMP TOOL is_simple(word ENUM('fresh', 'bread', 'cheap', 'cheerful')) RETURNS BOOLEAN
COMMENT 'whether a word is simple' AS SQL $$ SELECT length($word) < 6 $$;

CREATE OR REPLACE TEMP AGENT critic RETURNS ENUM('clear', 'vague') WITH (
    max_step_tokens = 20, system = 'You say whether a slogan is clear.');

CREATE OR REPLACE TEMP AGENT speaker RETURNS BOOLEAN WITH (
    tools = [is_simple], max_steps = 2, max_parallel = 1, max_step_tokens = 40,
    system = 'You say whether a slogan uses simple words. Look up one of its words first.');

CREATE OR REPLACE TEMP AGENT editor RETURNS ENUM('print', 'drop') WITH (
    tools = [critic, speaker], max_steps = 3, max_parallel = 2, max_step_tokens = 60,
    system = 'You decide about slogans. Ask the critic and the speaker about the slogan, then decide.');

SELECT s.id, s.slogan, a.answer, a.steps, [event.tool FOR event IN a.trace IF event.kind = 'call'] AS asked
FROM slogans s, LATERAL AGENT(editor, 'Decide about the slogan: {{ slogan }}') a
ORDER BY s.id;
