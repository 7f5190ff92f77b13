-- Planes in clusters: a plane may be suspended, has an image of its own while upgrades go on in waves, and what was done to it without
-- being asked for is told.
alter table planes drop constraint planes_wanted_known;
alter table planes add constraint planes_wanted_known check (wanted in ('running', 'asleep', 'suspended', 'deleted'));
alter table planes drop constraint planes_state_known;
alter table planes add constraint planes_state_known
    check (state in ('requested', 'provisioning', 'ready', 'degraded', 'asleep', 'suspended', 'deleting', 'deleted'));
-- Null: the one that the configuration names.
alter table planes add column image text;
grant select (image) on planes to howdah_tenant;

-- What is not as one would wish although the plane works; it does not end with what was in the way.
alter table plane_conditions add column lasting boolean not null default false;

create table plane_events (
    organization_id text not null references planes (organization_id),
    seq bigint generated always as identity,
    kind text not null,
    detail text not null,
    at timestamptz not null,
    primary key (organization_id, seq)
);
select protect_by_organization('plane_events');
