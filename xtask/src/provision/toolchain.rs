//! The compiler for the bare-metal targets.
//!
//! Asked, not guessed: the active compiler if it has `core` for the targets; the same after `rustup target add`, where
//! that works; else a private sysroot, built once with Debian's compiler from Debian's sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::debian::PackageSet;
use super::{TARGETS, cache};
use crate::command_line::Offline;
use crate::process::{find_on_path, output_of};
use crate::progress::Step;

/// Debian's compiler 1.96 with the sources of the standard library and the linker.
const DEBIAN_RUST: PackageSet = PackageSet {
    name: "rust",
    purpose: "the bare-metal Rust targets",
    suites: &["bookworm", "bookworm-security"],
    packages: &["rustc-web", "cargo-web", "rust-web-src", "rust-web-llvm", "lld-22"],
    wanted: is_wanted_for_rust,
    remedy: "run `rustup target add x86_64-unknown-none x86_64-unknown-uefi`, or install your distribution's `core` for these two targets",
};

/// The linker for host programs (build scripts) is the system's, as for every Rust program; the C library too.
fn is_wanted_for_rust(package: &str) -> bool {
    const UNWANTED: [&str; 12] = [
        "gcc",
        "cpp",
        "binutils",
        "libbinutils",
        "libc6",
        "libc-dev",
        "libc-bin",
        "linux-libc-dev",
        "libgcc-12-dev",
        "libgprofng",
        "libctf",
        "llvm-22",
    ];
    !UNWANTED.iter().any(|prefix| package.starts_with(prefix)) && !package.contains("san")
}

/// How to run cargo for the bare-metal targets.
pub(crate) struct Toolchain {
    /// A private sysroot's folder; `None`: the active toolchain.
    private: Option<PathBuf>,
}

impl Toolchain {
    /// Finds a compiler that has the targets, or makes one.
    pub(crate) fn find(options: &Offline) -> Result<Self> {
        if active_has_targets() || (!options.offline && rustup_adds_targets()) {
            return Ok(Self { private: None });
        }
        let rust = DEBIAN_RUST.ensure(options)?;
        let recipe = format!("2 {}", rust.display());
        let sysroot = match cache::existing("sysroot", &recipe)? {
            Some(sysroot) => sysroot,
            None if options.offline => bail!(
                "the bare-metal sysroot is not built, and building it fetches nine small crates, which --offline \
                 forbids: run `cargo xtask setup` once"
            ),
            None => cache::ensure("sysroot", &recipe, |folder| build_sysroot(&rust, folder))?,
        };
        Ok(Self { private: Some(sysroot) })
    }

    /// Where it is, for a person.
    pub(crate) fn describe(&self) -> String {
        match &self.private {
            None => "the active toolchain has both targets".to_owned(),
            Some(sysroot) => format!("{} (built from Debian's packages)", sysroot.display()),
        }
    }

    /// cargo, set up to build for the bare-metal targets.
    pub(crate) fn cargo(&self) -> Command {
        let Some(sysroot) = &self.private else {
            return Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        };
        let mut command = Command::new(sysroot.join("bin/cargo"));
        command.env("RUSTC", sysroot.join("bin/rustc")).env("PATH", path_with(&sysroot.join("bin")));
        // What the outer cargo and rustup said about their own compiler is not true of this one.
        for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTDOC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(name);
        }
        command
    }
}

fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

fn active_has_targets() -> bool {
    TARGETS.iter().all(|target| {
        output_of(rustc().args(["--print", "target-libdir", "--target", target]))
            .is_ok_and(|folder| holds_core(Path::new(folder.trim())))
    })
}

/// Whether a folder of libraries holds `libcore-*.rlib`.
fn holds_core(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("libcore-") && name.to_string_lossy().ends_with(".rlib")
        })
    })
}

/// Lets rustup add the targets to the active toolchain; without network it fails at once, and so does this.
fn rustup_adds_targets() -> bool {
    let is_rustups = std::env::var_os("RUSTUP_TOOLCHAIN").is_some();
    if !is_rustups || find_on_path("rustup").is_none() {
        return false;
    }
    let step = Step::begin("asking rustup for the bare-metal targets (`rustup target add`)", 0);
    let added = output_of(Command::new("rustup").args(["target", "add"]).args(TARGETS).env("RUSTUP_MAX_RETRIES", "0"));
    drop(step);
    match added {
        Ok(_) => active_has_targets(),
        Err(_) => {
            eprintln!("rustup cannot fetch them here; Debian's compiler is used for the bare-metal targets instead");
            false
        }
    }
}

/// Builds `core`, `alloc` and `compiler_builtins` for the targets, and wrappers that use them.
fn build_sysroot(rust: &Path, folder: &Path) -> Result<()> {
    // The wrappers name the folder where the sysroot will be.
    let finished = folder.with_file_name("sysroot");
    let host = "x86_64-unknown-linux-gnu";
    fs::create_dir_all(folder.join("bin"))?;
    fs::create_dir_all(folder.join("lib/rustlib"))?;
    std::os::unix::fs::symlink(rust.join("usr/lib/rustlib").join(host), folder.join("lib/rustlib").join(host))?;
    let sysroot_argument = format!("--sysroot {} ", quoted(&finished));
    for (name, program, argument) in [
        ("rustc", "usr/bin/rustc", sysroot_argument.as_str()),
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
    output_of(&mut cargo)?;
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

fn path_with(first: &Path) -> std::ffi::OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = vec![first.to_path_buf()];
    folders.extend(std::env::split_paths(&rest));
    std::env::join_paths(folders).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_is_looked_for_by_name() {
        let folder = std::env::temp_dir().join(format!("postern-libdir-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert!(!holds_core(&folder));
        fs::write(folder.join("libcore-0123.rmeta"), "").unwrap();
        assert!(!holds_core(&folder));
        fs::write(folder.join("libcore-0123.rlib"), "").unwrap();
        assert!(holds_core(&folder));
        fs::remove_dir_all(&folder).unwrap();
        assert!(!holds_core(&folder));
    }

    #[test]
    fn compilers_of_other_languages_are_not_fetched() {
        for wanted in ["rustc-web", "libllvm22", "lld-22", "libstd-rust-web-dev", "libgcc-s1", "libc-ares2"] {
            assert!(is_wanted_for_rust(wanted), "{wanted}");
        }
        for unwanted in
            ["gcc-12", "gcc-12-base", "libc6", "libc6-dev", "libasan8", "llvm-22-runtime", "binutils-common"]
        {
            assert!(!is_wanted_for_rust(unwanted), "{unwanted}");
        }
    }

    #[test]
    fn a_path_with_a_quote_stays_one_word() {
        assert_eq!(quoted(Path::new("/a'b c")), r"'/a'\''b c'");
    }
}
