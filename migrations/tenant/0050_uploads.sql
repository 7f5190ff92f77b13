-- Uploads that can be taken up again where they broke off, each of the principal that began it. commit_id is what it became.
create table uploads (
    id uuid primary key,
    repo_id uuid not null references repos (id),
    branch text not null,
    owner text not null,
    created_at timestamptz not null,
    touched_at timestamptz not null,
    commit_id uuid references commits (id)
);
create index uploads_touched on uploads (touched_at);

-- What an upload has stored: whole files, or a piece of one that lies from from_byte to to_byte. key is the client's name for
-- them; changes are encoded as in filesets; packs are the names of those that hold nothing but parts of this upload.
create table upload_parts (
    upload_id uuid not null references uploads (id) on delete cascade,
    key bytea not null,
    whole boolean not null,
    from_byte bigint not null,
    to_byte bigint not null,
    changes bytea not null,
    packs bytea not null,
    primary key (upload_id, key, whole, from_byte)
);
-- Digests do not get smaller.
alter table upload_parts alter column changes set storage external;
