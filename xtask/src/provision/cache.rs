//! Folders of the cache: each is complete or absent.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// The file in each folder that names the recipe that filled it.
const STAMP: &str = ".postern-recipe";

/// Where the folder `name` of the cache is or will be.
pub(super) fn place(name: &str) -> Result<PathBuf> {
    Ok(workspace::cache()?.join(name))
}

/// The folder `name` of the cache if it is there and was filled by this recipe.
pub(super) fn existing(name: &str, recipe: &str) -> Result<Option<PathBuf>> {
    Ok(existing_in(&workspace::cache()?, name, recipe))
}

/// The folder `name` of the cache, filled by `fill` if this recipe has not filled it before.
///
/// `fill` works in a temporary folder that is renamed when it succeeds: an interrupted set-up is repeated. A lock keeps
/// two processes from filling the same cache at once.
pub(super) fn ensure(name: &str, recipe: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    ensure_in(&workspace::cache()?, name, recipe, fill)
}

fn existing_in(cache: &Path, name: &str, recipe: &str) -> Option<PathBuf> {
    let folder = cache.join(name);
    let stamp = fs::read_to_string(folder.join(STAMP)).ok()?;
    (stamp == recipe).then_some(folder)
}

fn ensure_in(cache: &Path, name: &str, recipe: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    if let Some(folder) = existing_in(cache, name, recipe) {
        return Ok(folder);
    }
    fs::create_dir_all(cache).with_context(|| format!("cannot make the cache folder {}", cache.display()))?;
    let lock_file = cache.join(".lock");
    let lock = File::create(&lock_file).with_context(|| format!("cannot write {}", lock_file.display()))?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another xtask that is filling {}", cache.display());
        lock.lock().with_context(|| format!("cannot lock {}", lock_file.display()))?;
    }
    // Another process may have filled it while this one waited.
    if let Some(folder) = existing_in(cache, name, recipe) {
        return Ok(folder);
    }
    let partial = cache.join(format!(".{name}.partial"));
    remove(&partial)?;
    fs::create_dir(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    if let Err(error) = fill(&partial) {
        remove(&partial)?;
        return Err(error);
    }
    fs::write(partial.join(STAMP), recipe).with_context(|| format!("cannot write into {}", partial.display()))?;
    let folder = cache.join(name);
    remove(&folder)?;
    fs::rename(&partial, &folder).with_context(|| format!("cannot rename to {}", folder.display()))?;
    Ok(folder)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("cannot remove {}: {error}", folder.display())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("postern-cache-{name}-{}", std::process::id()));
        remove(&folder).unwrap();
        folder
    }

    #[test]
    fn fills_once_for_a_recipe_and_again_for_another() {
        let cache = scratch("recipe");
        let mut fills = 0;
        for (recipe, expected) in [("one", 1), ("one", 1), ("two", 2)] {
            let folder = ensure_in(&cache, "tool", recipe, |folder| {
                fills += 1;
                Ok(fs::write(folder.join("file"), recipe)?)
            })
            .unwrap();
            assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), recipe);
            assert_eq!(fills, expected);
        }
        remove(&cache).unwrap();
    }

    #[test]
    fn a_failed_or_interrupted_filling_leaves_nothing_under_the_name() {
        let cache = scratch("interrupted");
        fs::create_dir_all(cache.join(".tool.partial/left-over")).unwrap();
        assert!(ensure_in(&cache, "tool", "one", |_| bail!("no network")).is_err());
        assert_eq!(existing_in(&cache, "tool", "one"), None);
        let folder = ensure_in(&cache, "tool", "one", |_| Ok(())).unwrap();
        assert!(!folder.join("left-over").exists());
        remove(&cache).unwrap();
    }
}
