-- With path_collision append: what each current datum of a pipeline's last successful job wrote, so that a file that several
-- write is put together again from these rows when one of them changes. The rows repeat what datum_results has and live no
-- longer than it: a job whose results were given up is no base, and what is here is read for a base alone.
create table append_states (
    id bigint generated always as identity primary key,
    pipeline_id uuid not null references pipelines (id) on delete cascade,
    -- The job whose output they are.
    job_id uuid not null references jobs (id) on delete cascade,
    -- False until that job has succeeded.
    whole boolean not null default false
);
create unique index append_states_whole on append_states (pipeline_id) where whole;
create index append_states_by_job on append_states (job_id);

-- path_digest: of the path; key: the datum's; place: orders the datums of a path; piece: path and entry, storage::encode_entries.
create table appended (
    state_id bigint not null references append_states (id) on delete cascade,
    path_digest bytea not null,
    key bytea not null,
    place bytea not null,
    piece bytea not null,
    primary key (state_id, path_digest, key)
);
create index appended_by_key on appended (state_id, key);
