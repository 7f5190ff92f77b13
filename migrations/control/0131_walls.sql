-- The second net under tenancy: once a request is known to be about one organization, its transaction goes on as the role
-- howdah_tenant, which sees and changes the rows of that organization only (`howdah.organization`), whatever a statement forgets.
-- The owner of the tables is not held by the policies: signing up, lists over one's organizations and the reconciler work as him.

-- Roles belong to the cluster: several databases may make it, at once.
do $$
begin
    for attempt in 1..50 loop
        begin
            if not exists (select from pg_roles where rolname = 'howdah_tenant') then
                create role howdah_tenant nologin noinherit nosuperuser nocreatedb nocreaterole nobypassrls;
            end if;
            if not pg_has_role(current_user, 'howdah_tenant', 'member') then
                execute format('grant howdah_tenant to %I', current_user);
            end if;
            return;
        exception when duplicate_object or unique_violation or internal_error then
            perform pg_sleep(0.02);
        end;
    end loop;
    raise exception 'the role howdah_tenant cannot be made; make it by hand and grant it to %', current_user;
end $$;

grant usage on schema public to howdah_tenant;

-- The organization that the transaction is about; null before that is known, which is no organization.
create function current_organization() returns text language sql stable parallel safe as
    $$ select nullif(current_setting('howdah.organization', true), '') $$;

-- For tables with organization_id: rows of the organization alone. Later tables call it in the migration that makes them.
create function protect_by_organization(protected regclass) returns void language plpgsql as $$
begin
    execute format('alter table %s enable row level security', protected);
    execute format(
        'create policy of_the_organization on %s to howdah_tenant
         using (organization_id = (select current_organization()))
         with check (organization_id = (select current_organization()))', protected);
end $$;

-- Tables may be made by earlier migrations than this one and by later ones: what the role may do with a table as such is the same,
-- the policies say with which rows.
grant select, insert, update, delete on all tables in schema public to howdah_tenant;
alter default privileges in schema public grant select, insert, update, delete on tables to howdah_tenant;
revoke all on _sqlx_migrations from howdah_tenant;
alter default privileges in schema public grant usage, select on sequences to howdah_tenant;

-- Every table with organization_id but those that have rules of their own below.
create function protect_the_rest() returns void language plpgsql as $$
declare
    unprotected regclass;
begin
    for unprotected in
        select c.oid::regclass from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace
          and a.attname = 'organization_id' and not a.attisdropped and not c.relrowsecurity
          and c.relname not in ('audit_events', 'planes', 'api_tokens')
    loop
        perform protect_by_organization(unprotected);
    end loop;
end $$;
select protect_the_rest();

-- The trail grows only.
alter table audit_events enable row level security;
revoke update, delete on audit_events from howdah_tenant;
create policy of_the_organization on audit_events to howdah_tenant
    using (organization_id = (select current_organization())) with check (organization_id = (select current_organization()));

alter table organizations enable row level security;
revoke insert, delete on organizations from howdah_tenant;
create policy of_the_organization on organizations to howdah_tenant
    using (id = (select current_organization())) with check (id = (select current_organization()));

-- The plane's secrets are nobody's business here.
alter table planes enable row level security;
revoke all on planes from howdah_tenant;
grant select (organization_id, number, wanted, generation, seen_generation, state, url, schema_version, acknowledged_epoch,
              heartbeat_at, idle_seconds, failures, next_try_at, created_at, wake_at),
    update (wanted, generation, next_try_at, acknowledged_epoch) on planes to howdah_tenant;
create policy of_the_organization on planes to howdah_tenant
    using (organization_id = (select current_organization())) with check (organization_id = (select current_organization()));

-- Parts of what belongs to the organization.
alter table team_members enable row level security;
create policy of_the_organization on team_members to howdah_tenant
    using (exists (select from teams t where t.id = team_id and t.organization_id = (select current_organization())));
alter table release_domains enable row level security;
create policy of_the_organization on release_domains to howdah_tenant
    using (exists (select from releases r where r.id = release_id and r.organization_id = (select current_organization())));
alter table release_approvals enable row level security;
create policy of_the_organization on release_approvals to howdah_tenant
    using (exists (select from releases r where r.id = release_id and r.organization_id = (select current_organization())));

-- A token is the organization's when it is bound to it; of those that are good in all organizations of a member it sees that
-- they exist.
alter table api_tokens enable row level security;
create policy of_the_organization on api_tokens to howdah_tenant
    using (organization_id = (select current_organization())) with check (organization_id = (select current_organization()));
create policy of_its_members on api_tokens for select to howdah_tenant
    using (organization_id is null and exists (
        select from members m where m.organization_id = (select current_organization()) and m.account_id = principal));

-- Of people: those who belong to it, and neither passwords nor digests of secrets.
alter table accounts enable row level security;
revoke all on accounts from howdah_tenant;
grant select (id, email, email_key, created_at) on accounts to howdah_tenant;
create policy of_its_members on accounts for select to howdah_tenant
    using (exists (select from members m where m.organization_id = (select current_organization()) and m.account_id = accounts.id));
alter table sessions enable row level security;
revoke all on sessions from howdah_tenant;
grant select (id, account_id, created_at, expires_at, revoked_at) on sessions to howdah_tenant;
create policy of_its_members on sessions for select to howdah_tenant
    using (exists (
        select from members m where m.organization_id = (select current_organization()) and m.account_id = sessions.account_id));
alter table signing_keys enable row level security;
revoke all on signing_keys from howdah_tenant;

-- Whoever asks it sees what he may see of what it is made of.
alter view memberships set (security_invoker = true);
revoke insert, update, delete on memberships from howdah_tenant;
