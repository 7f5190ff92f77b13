-- The versions of the secrets that a job was planned with: its datums' keys count them, and it runs with no others.
alter table jobs add column secret_versions jsonb not null default '{}';
