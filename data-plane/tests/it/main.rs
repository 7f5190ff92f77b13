//! The data plane's tests against a real PostgreSQL: its router in this process, with a control plane that signs real
//! tokens and snapshots over real HTTP, and the real binary where a process is killed.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod access;
mod access_matrix;
mod access_table;
mod app;
mod archives;
mod audit;
mod ci_runs;
mod cluster;
mod config_file;
mod control;
mod crashes;
mod crons;
mod dedup;
mod defaults;
mod deltas;
mod direct;
mod direct_client;
mod etags;
#[path = "../../storage/tests/it/faulty.rs"]
#[expect(dead_code, reason = "the tests of storage need more of it")]
mod faulty;
mod files;
mod followers;
mod forged;
mod garbage;
mod guards;
mod handovers;
mod history;
mod idempotency;
mod imports;
mod jobs_appends;
mod jobs_branches;
mod jobs_cluster;
mod jobs_code;
mod jobs_crashes;
mod jobs_datums;
mod jobs_dry_runs;
mod jobs_egress;
mod jobs_egress_database;
mod jobs_images;
mod jobs_inputs;
mod jobs_lazy;
mod jobs_logs;
mod jobs_origins;
mod jobs_pipelines;
mod jobs_planning;
mod jobs_pods;
mod jobs_pods_lasting;
mod jobs_private_images;
mod jobs_purges;
mod jobs_random;
mod jobs_random_inputs;
mod jobs_releases;
mod jobs_reproductions;
mod jobs_rig;
mod jobs_secrets;
mod jobs_services;
mod jobs_sets;
mod jobs_spec;
mod jobs_sponsors;
mod jobs_spouts;
mod jobs_states;
mod jobs_statistics;
mod jobs_worker;
mod lent_keys;
mod model;
mod open_commits;
mod purges;
mod registry;
mod repairs;
mod repos;
mod revocation;
mod room;
#[path = "../../storage/tests/it/s3.rs"]
mod s3;
mod s3_bucket;
#[path = "../../storage/tests/it/samples.rs"]
#[expect(dead_code, reason = "the tests of storage need more of it")]
mod samples;
mod statistics;
mod stored;
mod tokens;
mod triggers;
mod two_worlds;
mod uploads;
mod web;
mod what_if;
