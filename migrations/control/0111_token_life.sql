-- counted_from: from when its age counts; a token that rotates itself does not become younger by that.
alter table api_tokens
    add column idle_days integer constraint api_tokens_idle_days_sane check (idle_days between 1 and 366),
    add column replaced_by text,
    add column counted_from timestamptz;

-- What an organization demands of tokens that work in it.
create table token_policies (
    organization_id text primary key references organizations (id) on delete cascade,
    longest_days integer constraint token_policies_longest_days_sane check (longest_days between 1 and 366),
    idle_days integer constraint token_policies_idle_days_sane check (idle_days between 1 and 366),
    approval boolean not null
);

-- What was decided of one token in one organization: by its admins, or because nobody used it for too long.
create table token_decisions (
    organization_id text not null references organizations (id) on delete cascade,
    token_id text not null references api_tokens (id) on delete cascade,
    decision text not null constraint token_decisions_known check (decision in ('approved', 'blocked', 'idle')),
    decided_at timestamptz not null,
    decided_by text not null,
    primary key (organization_id, token_id)
);
create index token_decisions_by_token on token_decisions (token_id);

-- How a token stands in an organization at a time: 'good', 'pending', 'blocked', 'idle' or 'too_old'. What is no API token (a
-- session) is good. Runs of CI systems are let in by a trust, for minutes: of the policy nothing concerns them.
create function token_standing(token text, organization text, at timestamptz) returns text language sql stable as $$
    select coalesce((
        select case
            when d.decision in ('blocked', 'idle') then d.decision
            when t.ci_trust_id is not null then 'good'
            when coalesce(t.counted_from, t.created_at) + make_interval(days => p.longest_days) <= $3 then 'too_old'
            when greatest(coalesce(t.last_used_at, t.created_at), d.decided_at) + make_interval(days => p.idle_days) <= $3 then 'idle'
            when p.approval and t.principal like 'acc\_%' and d.decision is distinct from 'approved' then 'pending'
            else 'good'
        end
        from api_tokens t
        left join token_policies p on p.organization_id = $2
        left join token_decisions d on d.organization_id = $2 and d.token_id = t.id
        where t.id = $1
    ), 'good')
$$;
