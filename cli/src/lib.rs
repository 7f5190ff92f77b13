//! The command line: every command of the product as a person or a script types it. It speaks HTTP to the planes and starts
//! their programs for `howdah up`, but links neither. Names of flags and shapes of `--json` are a contract.

mod access;
mod account;
mod api_token;
mod audit;
mod ci_trust;
mod client;
mod clock;
mod commit;
mod credentials;
mod defaults;
mod device;
mod doctor;
mod embedded;
mod evidence;
mod failure;
mod files;
mod files_of_ours;
mod fsck;
mod gc;
mod get;
mod grant;
mod graph;
mod history;
mod identity;
mod job;
mod lineage;
mod mount;
mod notebook;
mod notices;
mod open;
mod organization;
mod outbox;
mod output;
mod pipeline;
mod project;
mod put;
mod references;
mod release;
mod reproduce;
mod secret;
mod settings;
mod team;
mod template;
mod times;
mod token_policy;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use client::Client;
use failure::{Exit, Failure, Outcome};
use output::Output;
use settings::Settings;
use tokio::signal::unix::{SignalKind, signal};

/// How long an interrupted command may take to clear away what it began.
const INTERRUPT_PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

/// Versioned data, reproducible pipelines, and access that follows provenance.
#[derive(Debug, Parser)]
#[command(name = "howdah", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Environment: HOWDAH_URL, HOWDAH_TOKEN, HOWDAH_ORG, HOWDAH_PROJECT, HOWDAH_HOME.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 denied or not logged in,
            5 the job waited for failed, 6 conflict, 7 limit reached, 130 interrupted."
)]
struct Arguments {
    /// Print one JSON document (or JSON lines where it streams) to standard output
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(embedded::Up),
    /// Stop the service on this machine
    #[command(after_help = "Example: howdah down")]
    Down,
    /// Show whether the service runs and where
    #[command(after_help = "Example: howdah status --json")]
    Status,
    Signup(account::Signup),
    Login(account::Login),
    #[command(subcommand)]
    Account(identity::Account),
    #[command(subcommand)]
    Session(identity::Session),
    /// End the session and forget it
    #[command(after_help = "Example: howdah logout")]
    Logout,
    /// Show who you are and where
    #[command(after_help = "Example: howdah whoami")]
    Whoami,
    #[command(subcommand)]
    Org(organization::Org),
    #[command(subcommand)]
    Team(team::Team),
    #[command(subcommand)]
    ServiceAccount(team::ServiceAccount),
    #[command(subcommand)]
    Token(api_token::Token),
    #[command(subcommand)]
    CiTrust(ci_trust::Trust),
    #[command(subcommand)]
    Grant(grant::Grant),
    #[command(subcommand)]
    Access(access::Access),
    #[command(subcommand)]
    Release(release::Release),
    Notices(notices::Notices),
    #[command(subcommand)]
    Defaults(defaults::Defaults),
    #[command(subcommand)]
    Secret(secret::Secret),
    #[command(subcommand)]
    Project(project::Project),
    #[command(subcommand)]
    Repo(project::Repo),
    #[command(subcommand)]
    Branch(project::Branch),
    #[command(subcommand)]
    Commit(commit::Commit),
    Log(commit::Log),
    Put(put::Put),
    Get(get::Get),
    Cat(get::Cat),
    Ls(files::Ls),
    Mount(mount::Mount),
    Unmount(mount::Unmount),
    Rm(files::Rm),
    Cp(files::Cp),
    Diff(files::Diff),
    Provenance(lineage::Provenance),
    Impact(lineage::Impact),
    Verify(evidence::Verify),
    Reproduce(reproduce::Reproduce),
    #[command(subcommand)]
    Pipeline(pipeline::Pipeline),
    #[command(subcommand)]
    Job(job::Job),
    #[command(subcommand)]
    Datum(job::Datum),
    Logs(job::Logs),
    Open(open::Open),
    Wait(job::Wait),
    Doctor(doctor::Doctor),
    Outbox(outbox::Outbox),
    Fsck(fsck::Fsck),
    Gc(gc::Gc),
    Purge(history::Purge),
    /// Print a completion script for a shell
    #[command(after_help = "Example: howdah completions bash > /etc/bash_completion.d/howdah")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let output = Output { json: arguments.json };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            Failure::new("cannot start", error, "check the limits of this machine").print(output.json);
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let done = runtime.block_on(async {
        match &arguments.command {
            // They handle signals themselves.
            Command::Up(_) | Command::Mount(_) => run(arguments.command, output).await,
            _ => interruptible(run(arguments.command, output)).await,
        }
    });
    if matches!(&done, Err(failure) if failure.exit == Exit::Interrupted) {
        // What writes files on a thread of its own sees its reader end and removes what it began.
        runtime.shutdown_timeout(INTERRUPT_PATIENCE);
        return ExitCode::from(Exit::Interrupted as u8);
    }
    // A thread that still waits for standard input must not hold the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(output.json);
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Runs a command until it is done or Ctrl-C is pressed.
async fn interruptible(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    // Listened for before the command's first step: until then Ctrl-C ends the process on the spot, and what the command began would stay.
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|e| Failure::new("signals cannot be handled", e, "report this"))?;
    tokio::select! {
        done = command => done,
        // The command is dropped, and with it the files that are not whole yet.
        _ = interrupt.recv() => Err(Failure::interrupted()),
    }
}

/// Help and version are answers; all else is wrong usage.
fn refuse(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|a| a == "--json");
    if error.use_stderr() && json {
        let why = error.to_string();
        let why = why.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Failure::usage("wrong usage", why, "see `howdah --help`").print(true);
    } else {
        let _ = error.print();
    }
    if error.use_stderr() {
        ExitCode::from(Exit::Usage as u8)
    } else {
        ExitCode::SUCCESS
    }
}

async fn run(command: Command, output: Output) -> Outcome {
    if let Command::Completions { shell } = command {
        clap_complete::generate(shell, &mut Arguments::command(), "howdah", &mut std::io::stdout());
        return Ok(());
    }
    let settings = Settings::from_environment()?;
    match command {
        Command::Up(arguments) => embedded::up(&arguments, &settings, output).await,
        Command::Down => embedded::down(&settings, output).await,
        Command::Status => embedded::status(&settings, output).await,
        Command::Verify(arguments) => evidence::verify(&arguments, output),
        Command::Doctor(_) => doctor::run(&settings, output).await,
        Command::Outbox(arguments) => outbox::run(arguments, settings, output).await,
        Command::Mount(arguments) => mount::run(arguments, Client::new(settings, output)?, output).await,
        Command::Unmount(arguments) => mount::unmount(&arguments, output),
        Command::Pipeline(pipeline::Pipeline::Schema) => pipeline::schema(output),
        other => ask(other, &Client::new(settings, output)?, output).await,
    }
}

/// Commands that ask a service.
async fn ask(command: Command, client: &Client, output: Output) -> Outcome {
    match command {
        Command::Signup(arguments) => account::signup(arguments, client, output).await,
        Command::Login(arguments) => account::login(arguments, client, output).await,
        Command::Account(command) => identity::run(command, client, output).await,
        Command::Session(command) => identity::run_session(command, client, output).await,
        Command::Logout => account::logout(client, output).await,
        Command::Whoami => account::whoami(client, output).await,
        Command::Org(command) => organization::run(command, client, output).await,
        Command::Team(command) => team::run(command, client, output).await,
        Command::ServiceAccount(command) => team::run_service_accounts(command, client, output).await,
        Command::Token(command) => api_token::run(command, client, output).await,
        Command::CiTrust(command) => ci_trust::run(command, client, output).await,
        Command::Grant(command) => grant::run(command, client, output).await,
        Command::Access(command) => access::run(command, client, output).await,
        Command::Release(command) => release::run(command, client, output).await,
        Command::Notices(arguments) => notices::run(arguments, client, output).await,
        Command::Defaults(command) => defaults::run(command, client, output).await,
        Command::Secret(command) => secret::run(command, client, output).await,
        Command::Project(command) => project::run(command, client, output).await,
        Command::Repo(command) => project::run_repo(command, client, output).await,
        Command::Branch(command) => project::run_branch(command, client, output).await,
        Command::Commit(command) => commit::run(command, client, output).await,
        Command::Log(arguments) => commit::log(arguments, client, output).await,
        Command::Put(arguments) => put::run(arguments, client, output).await,
        Command::Get(arguments) => get::run(arguments, client, output).await,
        Command::Cat(arguments) => get::cat(arguments, client).await,
        Command::Ls(arguments) => files::ls(arguments, client, output).await,
        Command::Rm(arguments) => files::rm(arguments, client, output).await,
        Command::Cp(arguments) => files::cp(arguments, client, output).await,
        Command::Diff(arguments) => files::diff(arguments, client, output).await,
        Command::Provenance(arguments) => lineage::provenance(arguments, client, output).await,
        Command::Impact(arguments) => lineage::impact(arguments, client, output).await,
        Command::Reproduce(arguments) => reproduce::run(arguments, client, output).await,
        Command::Pipeline(command) => pipeline::run(command, client, output).await,
        Command::Job(command) => job::run(command, client, output).await,
        Command::Datum(command) => job::run_datum(command, client, output).await,
        Command::Open(arguments) => open::run(arguments, client, output).await,
        Command::Logs(arguments) => job::logs(arguments, client, output).await,
        Command::Wait(arguments) => job::wait(arguments, client, output).await,
        Command::Fsck(arguments) => fsck::run(&arguments, client, output).await,
        Command::Gc(arguments) => gc::run(arguments, client, output).await,
        Command::Purge(arguments) => history::purge(arguments, client, output).await,
        Command::Up(_)
        | Command::Down
        | Command::Status
        | Command::Doctor(_)
        | Command::Outbox(_)
        | Command::Verify(_)
        | Command::Mount(_)
        | Command::Unmount(_)
        | Command::Completions { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
