-- Packs that clients of an upload put into the bucket themselves. chunks is the pack's index: what it must hold. Where it is
-- 'taking' somebody has begun to take it over, which happens once at most; where it is 'kept' it is among the upload's parts.
create table upload_packs (
    pack bytea primary key,
    upload_id uuid not null references uploads (id) on delete cascade,
    key bytea not null,
    path text not null,
    from_byte bigint not null,
    chunks bytea not null,
    announced_at timestamptz not null,
    state text not null constraint upload_packs_state check (state in ('announced', 'taking', 'kept'))
);
create index upload_packs_upload on upload_packs (upload_id);
