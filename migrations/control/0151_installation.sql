-- Names this installation among others that share a cluster, a PostgreSQL server or an object store: only what says that it is ours is
-- ever swept away. A restored backup is the same installation.
create table installation (
    id text not null,
    singleton boolean primary key default true constraint installation_is_one check (singleton)
);
insert into installation (id) values (replace(gen_random_uuid()::text, '-', ''));
revoke all on installation from howdah_tenant;
