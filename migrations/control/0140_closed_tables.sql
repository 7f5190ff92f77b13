-- What is of people and not of organizations, and is made by earlier migrations than the walls: the role of confined transactions has no
-- business there.
revoke all on sign_ups, mailed_codes, account_events, authenticators, recovery_codes, identities, provider_log_ins, half_log_ins, passkeys,
    passkey_ceremonies, ci_spent, device_logins from howdah_tenant;

-- Mail is written in the transaction of what it tells, and read by nobody there.
revoke all on mails from howdah_tenant;
grant insert on mails to howdah_tenant;
alter table mails enable row level security;
create policy written_only on mails for insert to howdah_tenant with check (true);

-- Answers that are kept are those of the session or token that asks (`howdah.caller`).
alter table kept_answers enable row level security;
revoke delete on kept_answers from howdah_tenant;
create policy of_the_caller on kept_answers to howdah_tenant
    using (token_id = (select current_setting('howdah.caller', true)))
    with check (token_id = (select current_setting('howdah.caller', true)));
