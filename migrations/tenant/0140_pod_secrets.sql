-- Secrets that pools of worker pods have in the cluster, of one version of a pipeline each: noted before they are made, forgotten once
-- they are removed, so that none is left whenever the plane dies.
create table pod_secrets (
    pipeline_id uuid not null,
    version integer not null,
    made_at timestamptz not null,
    primary key (pipeline_id, version),
    foreign key (pipeline_id, version) references pipeline_versions (pipeline_id, version)
);
-- Datums of a worker that is gone are freed by its name.
create index leases_by_worker on leases (worker);
