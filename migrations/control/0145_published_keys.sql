-- How new the published keys are: data planes take newer ones only, so that a process that has not heard yet of a withdrawn key gives it
-- back to nobody. Grows with whatever changes them, by whatever process.
create table published_keys (
    one boolean primary key default true constraint published_keys_one check (one),
    version bigint not null
);
insert into published_keys (version) values (1);
revoke all on published_keys from howdah_tenant;
alter table published_keys enable row level security;

create function count_published_keys() returns trigger language plpgsql as $$
begin
    update published_keys set version = version + 1;
    return null;
end $$;
create trigger published_keys_change after insert or delete or update of kid, retired_at, signs_from on signing_keys
    for each row execute function count_published_keys();
