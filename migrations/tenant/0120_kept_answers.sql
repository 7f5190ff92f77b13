-- Answers of requests that carried an `Idempotency-Key`, written in the transaction of their effect. A key belongs to the session or
-- token that sent it; of the request there is a keyed digest.
create table kept_answers (
    token_id uuid not null,
    key text not null,
    request_digest bytea not null,
    status smallint not null,
    answer text not null,
    created_at timestamptz not null,
    primary key (token_id, key)
);
create index kept_answers_by_time on kept_answers (created_at);
