//! Where things lie: the repository, its target folder and the cache of fetched tools.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    // xtask is built in the repository that it serves, one level below its root.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The folder for what xtask makes: images, logs, boot volumes.
pub(crate) fn output() -> PathBuf {
    target().join("postern")
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The folder that holds everything that was fetched, and nothing else.
pub(crate) fn cache() -> Result<PathBuf> {
    cache_from(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
        .context("no folder for fetched tools: set POSTERN_CACHE, XDG_CACHE_HOME or HOME")
}

fn cache_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("POSTERN_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("postern")))
        .or_else(|| Some(variable("HOME")?.join(".cache/postern")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_folder_follows_the_environment() {
        let with = |set: &[(&str, &str)]| {
            let set: Vec<(String, PathBuf)> = set.iter().map(|(name, value)| ((*name).into(), value.into())).collect();
            cache_from(move |name| set.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
        };
        let home = ("HOME", "/home/a");
        assert_eq!(with(&[home]), Some("/home/a/.cache/postern".into()));
        assert_eq!(with(&[home, ("XDG_CACHE_HOME", "/x")]), Some("/x/postern".into()));
        assert_eq!(with(&[home, ("XDG_CACHE_HOME", "/x"), ("POSTERN_CACHE", "/p")]), Some("/p".into()));
        assert_eq!(with(&[]), None);
    }
}
