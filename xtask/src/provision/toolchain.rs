//! The compiler for the bare-metal targets.
//!
//! Asked, not guessed: the active compiler if it has `core` for the targets; the same after `rustup target add`, where
//! that works; else a private sysroot, built once with Debian's compiler from Debian's sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::debian::PackageSet;
use super::{TARGETS, cache, sysroot};
use crate::command_line::Offline;
use crate::process::{find_on_path, output_of};
use crate::progress::Step;

/// Debian's compiler 1.96 with the sources of the standard library and the linker.
const DEBIAN_RUST: PackageSet = PackageSet {
    name: "rust",
    purpose: "the bare-metal Rust targets",
    suites: &["bookworm", "bookworm-security"],
    packages: &["rustc-web", "cargo-web", "rust-web-src", "rust-web-llvm", "rust-web-clippy", "lld-22"],
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
        if active_has_targets() {
            return Ok(Self { private: None });
        }
        // A sysroot was built where rustup could not help: it is not asked again for every command.
        if let Some(sysroot) = existing_sysroot()? {
            return Ok(Self { private: Some(sysroot) });
        }
        if !options.offline && rustup_adds_targets() {
            return Ok(Self { private: None });
        }
        let rust = DEBIAN_RUST.ensure(options)?;
        if options.offline {
            bail!(
                "the bare-metal sysroot is not built, and building it fetches nine small crates, which --offline \
                 forbids: run `cargo xtask setup` once"
            );
        }
        let sysroot = cache::ensure("sysroot", &sysroot_recipe(&rust), |folder| sysroot::build(&rust, folder))?;
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
        command.env("RUSTC", sysroot.join("bin/rustc")).env("PATH", sysroot::path_with(&sysroot.join("bin")));
        // What the outer cargo and rustup said about their own compiler is not true of this one.
        for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTDOC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(name);
        }
        command
    }

    /// cargo, set up to lint these packages for a bare-metal target; a warning is an error.
    pub(crate) fn lints(&self, target: &str, packages: &[&str]) -> Command {
        let mut command = self.cargo();
        // Debian's clippy is started as cargo's own front end starts it: as a wrapper of the compiler.
        match &self.private {
            None => command.arg("clippy"),
            Some(sysroot) => command
                .arg("check")
                .env("SYSROOT", sysroot)
                .env("RUSTC_WORKSPACE_WRAPPER", sysroot.join("bin/clippy-driver"))
                .env("CLIPPY_ARGS", "--deny__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__"),
        };
        command.args(["--quiet", "--bins", "--lib", "--target", target]);
        for package in packages {
            command.args(["--package", package]);
        }
        if self.private.is_none() {
            command.args(["--", "--deny", "warnings"]);
        }
        command
    }
}

/// The private sysroot, if it and the compiler that it belongs to are in the cache.
fn existing_sysroot() -> Result<Option<PathBuf>> {
    match DEBIAN_RUST.existing()? {
        Some(rust) => cache::existing("sysroot", &sysroot_recipe(&rust)),
        None => Ok(None),
    }
}

/// What tells one content of the sysroot from another.
fn sysroot_recipe(rust: &Path) -> String {
    format!("3 {} {}", rust.display(), DEBIAN_RUST.recipe())
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
    let title = format!("fetching {}, 200 MB unpacked, by `rustup target add`", DEBIAN_RUST.purpose);
    let step = Step::begin(title, 0);
    let added = output_of(Command::new("rustup").args(["target", "add"]).args(TARGETS).env("RUSTUP_MAX_RETRIES", "0"));
    step.end();
    match added {
        Ok(_) => active_has_targets(),
        Err(_) => {
            eprintln!("rustup cannot fetch them here; Debian's compiler is used for the bare-metal targets instead");
            false
        }
    }
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
}
