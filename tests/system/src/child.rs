//! Programs that end with this one, however it ends.
//!
//! A machine that outlives the command that started it would burn a processor, unseen. The system sends a process a
//! signal when its parent ends (prctl(2), PR_SET_PDEATHSIG), but the process has to ask for that itself: so this
//! program starts itself once more as a go-between that asks and then becomes the program that is wanted. `xtask`
//! calls [`serve`] first of all, and starts every program through [`bound`].

use std::os::unix::process::CommandExt;
use std::process::{Command, id};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// The first argument of the go-between; its parent's process id and the program with its arguments follow.
const WORD: &str = "--end-with";

/// Whether this program can be its own go-between: it calls [`serve`].
static SERVES: AtomicBool = AtomicBool::new(false);

/// The same command for a program that is asked to stop (SIGTERM) when the thread that started it ends.
///
/// Standard input, output and error are to be set on the result.
pub fn bound(command: &Command) -> Command {
    let mut bound = if SERVES.load(Ordering::Relaxed) {
        // This program's own file, even if another build has replaced it meanwhile.
        let mut go_between = Command::new("/proc/self/exe");
        go_between.arg(WORD).arg(id().to_string()).arg(command.get_program());
        go_between
    } else {
        Command::new(command.get_program())
    };
    bound.args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(key, value),
            None => bound.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        bound.current_dir(folder);
    }
    bound
}

/// If this process was started as a go-between: becomes what it was started for, or ends with the reason why not.
pub fn serve() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_none_or(|word| word != WORD) {
        SERVES.store(true, Ordering::Relaxed);
        return;
    }
    let parent = arguments.next().and_then(|number| number.to_str()?.parse().ok());
    let Some(program) = arguments.next() else { std::process::exit(2) };
    let asked = set_parent_process_death_signal(Some(Signal::TERM));
    // The parent may have ended before it was asked for the signal.
    if asked.is_err() || getppid().map(|id| id.as_raw_nonzero().get()) != parent {
        std::process::exit(1);
    }
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("cannot start {}: {error}", program.display());
    std::process::exit(127);
}
