-- Mails are written in the transaction of what they tell, and sent by a task. The text holds secrets: it is sealed by the vault,
-- and erased once the mail was sent.
create table mails (
    id text primary key,
    kind text not null,
    recipient text not null,
    subject text not null,
    sealed_text bytea,
    created_at timestamptz not null,
    tries integer not null default 0,
    next_try_at timestamptz,
    sent_at timestamptz,
    error text
);
create index mails_due on mails (next_try_at) where next_try_at is not null;
create index mails_by_age on mails (created_at);
