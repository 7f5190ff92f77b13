//! End-to-end stories: the real binaries, a real PostgreSQL, real sandboxes, spoken to through the command line as people
//! and scripts do.

mod bad_input;
mod bundles;
mod challenge;
mod commands;
mod crashes;
mod embedded;
mod harness;
mod histories;
mod imports;
mod memory;
mod mount;
mod mount_as_another;
mod notebooks;
mod people;
mod reproductions;
mod secrets;
mod services;
mod telemetry;
mod tenancy;
mod uploads;
mod user_code;
mod wire;
