-- Agents that call agents: an editor hands parts of the work to a translator and a critic.
--
--   halo -f examples/workflows/agents_calling_agents.sql
--
--   slogans ─ AGENT editor ─┬─ AGENT critic
--                           └─ AGENT speaker ─ TOOL known_word (SQL)
--
-- An inner agent is a tool of the outer one: its conversations, too, run for all rows at once, and equal ones once.
-- Limits hold for each conversation; what an inner agent may send out, the outer one must allow.

CREATE TEMP TABLE slogans AS
SELECT * FROM (VALUES (1, 'Fresh bread all day'), (2, 'Cheap and cheerful'), (3, 'Fresh bread all day')) s(id, slogan);

CREATE TEMP TABLE words AS SELECT * FROM (VALUES ('fresh'), ('bread'), ('day')) w(word);

CREATE TEMP TOOL known_word(word VARCHAR) RETURNS BOOLEAN COMMENT 'whether a word is simple'
AS SQL $$ SELECT count(*) > 0 FROM words WHERE word = lower($word) $$;

CREATE TEMP AGENT critic RETURNS ENUM('clear', 'vague') WITH (
    system = 'You say whether a slogan is clear.', max_step_tokens = 20);

CREATE TEMP AGENT speaker RETURNS BOOLEAN WITH (
    tools = [known_word], max_steps = 2, max_step_tokens = 40, system = 'You say whether a slogan uses simple words.');

CREATE TEMP AGENT editor RETURNS ENUM('print', 'drop') WITH (
    tools = [critic, speaker], max_steps = 3, max_step_tokens = 60,
    system = 'You decide about slogans. Ask the critic and the speaker about the slogan, then decide.');

SELECT s.id, s.slogan, a.answer, a.steps
FROM slogans s, LATERAL AGENT(editor, 'Decide about the slogan: {{ slogan }}') a
ORDER BY s.id;
