-- New images of planes, in waves. What a plane had before is kept until all have the new one.
create table plane_rollouts (
    id bigint primary key generated always as identity,
    image text not null,
    state text not null constraint plane_rollouts_state_known check (state in ('running', 'done', 'rolled_back')),
    wave integer not null default 0,
    wave_since timestamptz not null,
    reason text not null default ''
);
create unique index plane_rollouts_one_running on plane_rollouts ((true)) where state = 'running';
revoke all on plane_rollouts from howdah_tenant;
alter table planes add column image_before text;
alter table planes add column rollout_id bigint;
