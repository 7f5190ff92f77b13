-- Where pipelines have sent outputs. complete: the digest of all that is there since the last success, null while something
-- else may be.
create table egresses (
    id bigint generated always as identity primary key,
    pipeline_id uuid not null references pipelines (id),
    place text not null,
    complete bytea,
    unique (pipeline_id, place)
);
-- What was put there: the path of a file, or the name of a table. digest is null from before it is sent until it is known to
-- be there.
create table egress_objects (
    egress_id bigint not null references egresses (id) on delete cascade,
    path text collate "C" not null,
    digest bytea,
    primary key (egress_id, path)
);
