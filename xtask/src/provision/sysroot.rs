//! A private sysroot: Debian's compiler, and its `core` and `alloc` built for the bare-metal targets.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::TARGETS;
use crate::process::output_of;
use crate::progress::Step;

/// Builds `core`, `alloc` and `compiler_builtins` for the targets, and wrappers that use them.
pub(super) fn build(rust: &Path, folder: &Path) -> Result<()> {
    // The wrappers name the folder where the sysroot will be.
    let finished = folder.with_file_name("sysroot");
    let host = "x86_64-unknown-linux-gnu";
    fs::create_dir_all(folder.join("bin"))?;
    fs::create_dir_all(folder.join("lib/rustlib"))?;
    std::os::unix::fs::symlink(rust.join("usr/lib/rustlib").join(host), folder.join("lib/rustlib").join(host))?;
    let sysroot_argument = format!("--sysroot {} ", quoted(&finished));
    for (name, program, argument) in [
        ("rustc", "usr/bin/rustc", sysroot_argument.as_str()),
        ("clippy-driver", "usr/bin/clippy-driver", ""),
        ("cargo", "usr/bin/cargo", ""),
        ("rust-lld", "usr/lib/llvm-22/bin/lld", ""),
    ] {
        wrapper(&folder.join("bin").join(name), rust, program, argument)?;
    }
    for target in TARGETS {
        let step = Step::begin(format!("building Rust's core and alloc for {target} (once, about half a minute)"), 0);
        build_core(rust, folder, target).with_context(|| format!("cannot build core for {target}"))?;
        step.end();
    }
    fs::remove_dir_all(folder.join("seed")).context("cannot remove the sysroot's working folder")
}

fn build_core(rust: &Path, folder: &Path, target: &str) -> Result<()> {
    let seed = folder.join("seed");
    fs::create_dir_all(seed.join("src"))?;
    let manifest = "[package]\nname = \"seed\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[profile.release]\npanic = \"abort\"\n[workspace]\n";
    fs::write(seed.join("Cargo.toml"), manifest)?;
    fs::write(seed.join("src/lib.rs"), "#![no_std]\n")?;
    // While it is built, the wrapper's sysroot is not there yet: the compiler is called as Debian installed it.
    let plain = seed.join("rustc");
    wrapper(&plain, rust, "usr/bin/rustc", "")?;
    let output = seed.join("target");
    let mut cargo = Command::new(folder.join("bin/cargo"));
    cargo
        .current_dir(&seed)
        .args(["build", "--release", "--target", target, "--target-dir"])
        .arg(&output)
        .args(["-Zbuild-std=core,alloc,compiler_builtins", "-Zbuild-std-features=compiler-builtins-mem"])
        .env("RUSTC", &plain)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", path_with(&folder.join("bin")));
    for name in ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
        cargo.env_remove(name);
    }
    output_of(&cargo)?;
    let libraries = folder.join("lib/rustlib").join(target).join("lib");
    fs::create_dir_all(&libraries)?;
    let mut copied = 0;
    for entry in fs::read_dir(output.join(target).join("release/deps"))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_library =
            ["libcore-", "liballoc-", "libcompiler_builtins-"].iter().any(|prefix| name.starts_with(prefix));
        if is_library && name.ends_with(".rlib") {
            fs::copy(entry.path(), libraries.join(&*name))?;
            copied += 1;
        }
    }
    if copied != 3 {
        bail!("expected core, alloc and compiler_builtins, found {copied} libraries");
    }
    fs::remove_dir_all(&output).context("cannot remove the seed's target folder")
}

/// Writes a script that runs `program` of the folder `rust` with the libraries that were unpacked beside it.
///
/// The variable for the libraries is set for this program alone: what it starts (the system's linker) must not see it.
fn wrapper(script: &Path, rust: &Path, program: &str, arguments: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let text = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH={}:{} exec {} {arguments}\"$@\"\n",
        quoted(&rust.join("usr/lib/x86_64-linux-gnu")),
        quoted(&rust.join("lib/x86_64-linux-gnu")),
        quoted(&rust.join(program))
    );
    fs::write(script, text).with_context(|| format!("cannot write {}", script.display()))?;
    fs::set_permissions(script, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// PATH with one more folder before the others.
pub(super) fn path_with(first: &Path) -> OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = vec![first.to_path_buf()];
    folders.extend(std::env::split_paths(&rest));
    std::env::join_paths(folders).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_quote_stays_one_word() {
        assert_eq!(quoted(Path::new("/a'b c")), r"'/a'\''b c'");
    }
}
