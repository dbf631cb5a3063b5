//! A guest that tries out its VM. The word `test=NAME` on its command line says what to try; every finding is a line
//! `result NAME what=value ...`, and the last line is `result NAME ended failures=N`.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod check;
#[cfg(target_os = "none")]
mod smoke;

#[cfg(target_os = "none")]
guest::main!(run);

/// Runs the test that the command line names, and leaves with the number of failures.
#[cfg(target_os = "none")]
fn run(multiboot: &guest::multiboot::Information) {
    let name = multiboot.option("test").unwrap_or("smoke");
    let mut check = check::Check::new(name);
    match name {
        "smoke" => smoke::run(multiboot, &mut check),
        _ => check.that("known", false),
    }
    check.finish();
}

/// Elsewhere there is nothing to try.
#[cfg(not(target_os = "none"))]
fn main() {
    println!("This is a guest: build it for x86_64-unknown-none.");
}
