//! Takes orders from one connection at a time.

use std::fs;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use socket2::SockRef;

use crate::command::Current;
use crate::outputs::Line;
use crate::wire::{self, Kind, Order, Report, VERSION};

/// Names a boot; read anew it is another one.
const UNIQUE: &str = "/proc/sys/kernel/random/uuid";

/// What `serve` needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the worker connects.
    pub socket: PathBuf,
    /// The commands' `/tmp`.
    pub scratch: PathBuf,
}

/// Why a connection does not control any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// It ended.
    Gone,
    /// It asked this program to end.
    Told,
}

/// Whom to tell that the container stops.
type Controlling = Arc<Mutex<Option<Line>>>;

/// Runs commands until it is told to end: by an order, or by SIGTERM or SIGINT, which end the process.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(settings: &Settings) -> io::Result<()> {
    // User code runs under the same id and may neither look into this process nor outlive it.
    prctl::set_dumpable(false)?;
    prctl::set_child_subreaper(true)?;
    let controlling = Controlling::default();
    leave_when_told(Arc::clone(&controlling))?;
    let boot = fs::read_to_string(UNIQUE)?.trim().to_owned();
    loop {
        // Made anew for each: whoever waited at the one before may be user code, which could also have put its own there.
        let listener = listen(&settings.socket)?;
        let (connection, _) = listener.accept()?;
        let others = TurnedAway::begin(listener)?;
        let over = control(connection, &boot, settings, &controlling);
        set(&controlling, None);
        sandbox::end_everything();
        others.end();
        if over == Over::Told {
            return Ok(());
        }
    }
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(socket),
    }
}

fn set(controlling: &Controlling, line: Option<Line>) {
    *controlling.lock().unwrap_or_else(PoisonError::into_inner) = line;
}

/// The first process of a container has to listen to signals by itself. Before any other thread is there: they inherit it that
/// signals wait for this one. Commands do not.
fn leave_when_told(controlling: Controlling) -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let leave = move || {
        if signals.wait().is_ok() {
            let line = controlling.lock().unwrap_or_else(PoisonError::into_inner).take();
            let _ = line.map(|line| line.say(&Report::Leaving));
            sandbox::kill_everything();
            std::process::exit(0);
        }
    };
    thread::Builder::new().spawn(leave).map(drop)
}

/// Follows the orders of a connection until its end, and lets nothing run longer.
fn control(mut connection: UnixStream, boot: &str, settings: &Settings, controlling: &Controlling) -> Over {
    let Ok(line) = connection.try_clone().map(Line::new) else {
        return Over::Gone;
    };
    set(controlling, Some(line.clone()));
    let hello = Report::Hello {
        version: VERSION,
        boot: boot.to_owned(),
    };
    let mut current = None;
    let mut over = Over::Gone;
    if line.say(&hello).is_ok() {
        while let Some(order) = next(&mut connection) {
            match order {
                Order::End => {
                    over = Over::Told;
                    break;
                }
                order => follow(order, &mut current, &line, settings),
            }
        }
    }
    if let Some(current) = current {
        current.kill();
        current.join();
    }
    over
}

/// The next order; none when nothing comes any more, or what comes is no order.
fn next(connection: &mut UnixStream) -> Option<Order> {
    let frame = wire::read(connection).ok()?;
    match frame.kind {
        Kind::Json => serde_json::from_slice(&frame.payload).ok(),
        Kind::Stdout | Kind::Stderr => None,
    }
}

fn follow(order: Order, current: &mut Option<Current>, line: &Line, settings: &Settings) {
    let refuse = |reason: String| {
        let _ = line.say(&Report::Refused(reason));
    };
    match order {
        Order::Run(command) => {
            if current.as_ref().is_some_and(|current| !current.is_over()) {
                return refuse("a command runs: one at a time".to_owned());
            }
            if let Some(before) = current.take() {
                before.join();
            }
            match Current::start(*command, line.clone(), settings.scratch.clone()) {
                Ok(started) => *current = Some(started),
                Err(error) => refuse(format!("a thread could not be started: {error}")),
            }
        }
        Order::Kill => {
            if let Some(current) = current {
                current.kill();
            }
        }
        Order::End => {}
    }
}

/// Connections beside the one that controls.
struct TurnedAway {
    listener: UnixListener,
    thread: JoinHandle<()>,
}

impl TurnedAway {
    fn begin(listener: UnixListener) -> io::Result<Self> {
        let mine = listener.try_clone()?;
        let turn_away = move || {
            loop {
                match mine.accept() {
                    Ok((mut connection, _)) => drop(wire::write(&mut connection, &Report::Busy)),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        };
        let thread = thread::Builder::new().spawn(turn_away)?;
        Ok(Self { listener, thread })
    }

    /// Whoever waits is let go.
    fn end(self) {
        // Wakes the one that accepts.
        let _ = SockRef::from(&self.listener).shutdown(std::net::Shutdown::Both);
        let _ = self.thread.join();
    }
}
