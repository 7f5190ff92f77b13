-- A few of the chunks that puts stored, by the first 8 bytes of their digests, and the packs that they lie in: a later put of
-- the same content under another path finds that pack, and the one that was sealed after it, and learns what is in them.
-- Only hints: a row may be missing, and a row of a pack must be gone before that may be removed.
create table chunk_samples (
    repo_id uuid not null references repos (id),
    sample bigint not null,
    pack bytea not null,
    next_pack bytea,
    commit_id uuid not null references commits (id) on delete cascade,
    primary key (repo_id, sample, pack)
);
create index chunk_samples_pack on chunk_samples (pack);
create index chunk_samples_next_pack on chunk_samples (next_pack) where next_pack is not null;
create index chunk_samples_commit on chunk_samples (commit_id);
