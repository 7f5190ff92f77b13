-- Packs that nothing referred to when they were looked for. One that stays so for longer than any upload may take goes away.
create table condemned_packs (
    id bytea primary key,
    condemned_at timestamptz not null
);

-- What collections of garbage found and freed, the newest last.
create table collections (
    seq bigint generated always as identity primary key,
    finished_at timestamptz not null,
    report jsonb not null
);
