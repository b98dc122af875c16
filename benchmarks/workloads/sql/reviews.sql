-- Critics' reviews with what is known of their movie: rows of a movie share most of their prompt.
-- Run with $movies: so many movies, those with the most reviews. Columns that hold the answers are left out.

CREATE TABLE reviews AS
    SELECT * EXCLUDE (scoreSentiment, reviewState, originalScore) FROM read_csv('../shared/data/sembench_movie/Reviews.csv');
CREATE TABLE movies AS
    SELECT DISTINCT ON (id) * EXCLUDE (audienceScore, tomatoMeter) FROM read_csv('../shared/data/sembench_movie/Movies.csv');

WITH popular AS (
    SELECT id FROM reviews GROUP BY id ORDER BY count(*) DESC, id LIMIT $movies
)
SELECT r.reviewId,
    LLM_MAP('Is this review positive or negative?
{{ r.reviewText, r.criticName, m.title, m.rating, m.ratingContents, m.genre, m.director, m.writer, m.distributor, m.soundMix }}',
        model => 'critic', max_tokens => 4,
        system => 'You read reviews of films. Answer with one word: positive or negative.') AS verdict
FROM reviews r JOIN movies m ON r.id = m.id JOIN popular p ON p.id = m.id
ORDER BY r.reviewId;
