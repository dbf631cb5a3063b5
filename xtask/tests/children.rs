//! What xtask started does not outlive it.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// A shell starts a program through xtask's go-between and is killed, which it cannot notice: the program ends too.
#[test]
fn a_program_ends_with_the_process_that_started_it() {
    // Both hold the pipe open. The program speaks when it runs: before, the go-between would find no parent.
    let script = "\"$XTASK\" --end-with $$ sh -c 'echo started; exec sleep 90' & wait";
    let mut parent = Command::new("sh")
        .args(["-c", script])
        .env("XTASK", env!("CARGO_BIN_EXE_xtask"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = parent.stdout.take().unwrap();
    output.read_exact(&mut [0; 8]).unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    let (closed, end) = channel();
    thread::spawn(move || closed.send(output.read(&mut [0])));
    let end = end.recv_timeout(Duration::from_secs(60)).expect("the program still runs");
    assert_eq!(end.unwrap(), 0);
}

/// A go-between whose parent has already ended starts nothing.
#[test]
fn nothing_is_started_for_a_parent_that_is_gone() {
    let nobody = u32::MAX.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["--end-with", &nobody, "echo", "x"]).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
}
