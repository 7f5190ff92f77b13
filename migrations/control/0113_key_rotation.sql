-- A key that signs nothing yet is published before it does: signs_from is null until then.
alter table signing_keys add column signs_from timestamptz;
update signing_keys set signs_from = created_at;
