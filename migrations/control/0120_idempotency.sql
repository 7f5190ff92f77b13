-- Answers of requests that carried an `Idempotency-Key`, written in the transaction of their effect: whoever sends the same request
-- again with the same session or token gets the same answer, and nothing happens a second time. An answer may hold a secret that is
-- shown once, so it is sealed by the vault; of the request there is a keyed digest only.
create table kept_answers (
    token_id text not null,
    key text not null,
    request_digest bytea not null,
    status smallint not null,
    answer_encrypted bytea not null,
    created_at timestamptz not null,
    primary key (token_id, key)
);
create index kept_answers_by_time on kept_answers (created_at);
