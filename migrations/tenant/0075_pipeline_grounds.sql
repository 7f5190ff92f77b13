-- By what the sponsor of a pipeline (who applied a version of it) was last found to hold `derive` on a domain that its inputs
-- require (R8): by a grant of his own, by these grants to teams; by neither: it was revoked. Of a sponsor who left the
-- organization the rows say what he held.
create table pipeline_grounds (
    pipeline_id uuid not null references pipelines (id),
    sponsor text not null,
    domain_id uuid not null,
    own boolean not null,
    by_teams uuid[] not null,
    primary key (pipeline_id, sponsor, domain_id)
);
