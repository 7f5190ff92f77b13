-- How far each data plane's own audit trail went when it was signed last: it never goes back.
create table plane_audit_heads (
    organization_id text primary key references organizations (id),
    seq bigint not null,
    hash text not null,
    signed_at timestamptz not null
);
select protect_by_organization('plane_audit_heads');
