-- Envelope encryption: what the database has to give back is sealed with a data key of its purpose, and data keys are wrapped by a
-- key that is not here (key_service says which). Rows of one purpose are its versions; the newest seals, all of them open.
create table data_encryption_keys (
    id text primary key,
    purpose text not null,
    version integer not null,
    key_service text not null,
    wrapped bytea not null,
    created_at timestamptz not null,
    constraint data_encryption_keys_version_unique unique (purpose, version)
);
revoke all on data_encryption_keys from howdah_tenant;
