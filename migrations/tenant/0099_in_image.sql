-- Whether a version runs in its image. One that was applied before images were fetched has a digest where its spec named one,
-- and goes on running among the programs of the machine until it is applied again.
alter table pipeline_versions
    add column in_image boolean not null default false;
