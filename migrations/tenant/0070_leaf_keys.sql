-- Which matches of an input have which key, for inputs under a join or group: what changed is planned from the keys that
-- changed. One index of each leaf of a pipeline, as of the commit that the leaf reads in job_id (its tree has tree_digest;
-- with another one, or none, the index counts for nothing). Made from a listing, then kept by differences. It can be
-- removed at any time, and must be with what it names.
create table leaf_indexes (
    id bigint generated always as identity primary key,
    pipeline_id uuid not null references pipelines (id) on delete cascade,
    position integer not null,
    -- Of glob and templates.
    shape bytea not null,
    job_id uuid not null references jobs (id) on delete cascade,
    tree_digest bytea not null,
    -- False while its rows are being written.
    whole boolean not null default false
);
create unique index leaf_indexes_whole on leaf_indexes (pipeline_id, position) where whole;
create index leaf_indexes_by_job on leaf_indexes (job_id);

-- key: digest of the value; place: digest of kind and path, which may be too long for an index.
create table leaf_keys (
    index_id bigint not null references leaf_indexes (id) on delete cascade,
    key bytea not null,
    place bytea not null,
    path text not null,
    directory boolean not null,
    primary key (index_id, key, place)
);
