//! Debian packages unpacked beside the system: no root, no maintainer scripts, nothing outside the cache folder.
//!
//! apt's client works with lists and a status file of its own, so it neither sees nor changes what is installed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use system_tests::child;

use super::cache;
use crate::command_line::Offline;
use crate::process::{find_on_path, output_of};
use crate::progress::Step;
use crate::workspace;

/// Names the archive to fetch from where apt's configuration names none, as on Ubuntu, or instead of it.
const MIRROR_VARIABLE: &str = "POSTERN_DEBIAN_MIRROR";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A set of packages that is unpacked into one folder of the cache.
pub(super) struct PackageSet {
    /// The folder's name in the cache.
    pub(super) name: &'static str,
    /// What it is fetched for, as the end of "fetching ... for ...".
    pub(super) purpose: &'static str,
    /// The suites, the one to prefer last.
    pub(super) suites: &'static [&'static str],
    /// The packages; what they depend on comes along.
    pub(super) packages: &'static [&'static str],
    /// Of everything that apt would install: which packages are needed.
    pub(super) wanted: fn(package: &str) -> bool,
    /// What a person installs where this cannot be done.
    pub(super) remedy: &'static str,
}

impl PackageSet {
    /// The folder with these packages unpacked, if it is in the cache.
    pub(super) fn existing(&self) -> Result<Option<PathBuf>> {
        cache::existing(self.name, &self.recipe())
    }

    /// The folder with these packages unpacked; fetches them if they are not in the cache and fetching is allowed.
    ///
    /// # Errors
    /// A sentence that names what is missing and what to install, where it cannot be fetched.
    pub(super) fn ensure(&self, options: &Offline) -> Result<PathBuf> {
        if let Some(folder) = self.existing()? {
            return Ok(folder);
        }
        if options.offline {
            bail!(
                "{} cannot be fetched (Debian's packages {}) with --offline: run `cargo xtask setup` once, or {}",
                self.purpose,
                self.packages.join(", "),
                self.remedy
            );
        }
        if find_on_path("apt-get").is_none() || find_on_path("dpkg-deb").is_none() {
            bail!(
                "{} cannot be fetched, because apt-get and dpkg-deb are not here (this is neither Debian nor Ubuntu): {}",
                self.purpose,
                self.remedy
            );
        }
        cache::ensure(self.name, &self.recipe(), |folder| self.unpack_into(folder))
    }

    /// What tells one content of the folder from another.
    pub(super) fn recipe(&self) -> String {
        format!("2 {} {}", self.suites.join(" "), self.packages.join(" "))
    }

    /// What apt could not reach, and what a person can do instead.
    fn cannot_fetch(&self, said: &str) -> anyhow::Error {
        anyhow!(
            "{} cannot be fetched, because Debian's packages are out of reach:{}\n\
             Any of these helps: set {MIRROR_VARIABLE} to the address of a mirror that is in reach, the part before \
             /debian; copy the folder {} from a machine where `cargo xtask setup` has filled it, and use --offline; \
             {}",
            self.purpose,
            complaints(said),
            workspace::cache().unwrap_or_default().display(),
            self.remedy
        )
    }

    fn unpack_into(&self, folder: &Path) -> Result<()> {
        let apt = PrivateApt::create(&folder.join(".apt"), self.suites)?;
        let update = Step::begin(format!("reading Debian's package lists ({})", self.suites.join(", ")), 0);
        let unreachable = |said: String| self.cannot_fetch(&said);
        // Else apt takes a list that it could not reach for one that is merely old.
        let arguments = ["-qq", "-o", "APT::Update::Error-Mode=any", "update"];
        output_of(apt.get().args(arguments)).map_err(|error| unreachable(format!("{error:#}")))?;
        update.end();
        let plan =
            output_of(apt.get().args(["-qq", "-y", "--print-uris", "--download-only", "install"]).args(self.packages))
                .map_err(|error| unreachable(format!("{error:#}")))?;
        let packages: Vec<Package> =
            plan.lines().filter_map(Package::parse).filter(|package| (self.wanted)(&package.name)).collect();
        let megabytes = packages.iter().map(|package| package.bytes).sum::<u64>().div_ceil(1_000_000);
        let title = format!("fetching {} packages, {megabytes} MB, for {}", packages.len(), self.purpose);
        apt.download(&packages, title).map_err(|error| unreachable(format!("{error:#}")))?;
        let unpack =
            Step::begin(format!("unpacking them into {}", cache::place(self.name)?.display()), packages.len() as u64);
        let archives = fs::read_dir(&apt.archives).context("cannot read the downloaded packages")?;
        let mut unpacked = 0;
        for archive in archives {
            let archive = archive?.path();
            if archive.extension().is_some_and(|extension| extension == "deb") {
                output_of(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder))?;
                unpacked += 1;
                unpack.at(unpacked);
            }
        }
        if unpacked != packages.len() as u64 {
            bail!("apt was asked for {} packages and delivered {unpacked}", packages.len());
        }
        unpack.end();
        fs::remove_dir_all(folder.join(".apt")).context("cannot remove apt's working folder")
    }
}

/// One line of `apt-get --print-uris`.
#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    bytes: u64,
}

impl Package {
    /// Parses `'URI' NAME_VERSION_ARCHITECTURE.deb BYTES HASH`.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_whitespace().skip(1);
        let file = fields.next()?;
        let bytes = fields.next()?.parse().ok()?;
        let (name, _) = file.strip_suffix(".deb")?.split_once('_')?;
        Some(Self { name: name.to_owned(), bytes })
    }
}

/// apt's client with lists, cache and status of its own.
struct PrivateApt {
    options: Vec<String>,
    archives: PathBuf,
}

impl PrivateApt {
    fn create(folder: &Path, suites: &[&str]) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing, with which Debian's packages are verified: install debian-archive-keyring");
        }
        let archives = folder.join("archives");
        for part in ["lists/partial", "cache/archives/partial", "archives"] {
            fs::create_dir_all(folder.join(part)).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let configured = output_of(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
        ]))?;
        let chosen = std::env::var(MIRROR_VARIABLE).ok();
        let source = |suite: &&str| {
            let mirror = mirror(suite, &configured, chosen.as_deref())?;
            Some(format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
        };
        let sources: Option<String> = suites.iter().map(source).collect();
        let Some(sources) = sources else {
            bail!(
                "apt's configuration names no archive of Debian to fetch from (as on Ubuntu): set {MIRROR_VARIABLE} to \
                 the address of a mirror, the part before /debian"
            );
        };
        fs::write(folder.join("sources.list"), sources)?;
        fs::write(folder.join("status"), "")?;
        let user = output_of(Command::new("id").arg("-un"))?;
        let at = |option: &str, name: &str| format!("{option}={}", folder.join(name).display());
        let mut options = vec![
            at("Dir::Etc::sourcelist", "sources.list"),
            "Dir::Etc::sourceparts=/dev/null".into(),
            "Dir::Etc::preferencesparts=/dev/null".into(),
            at("Dir::State::lists", "lists"),
            at("Dir::State::status", "status"),
            at("Dir::Cache", "cache"),
            "APT::Install-Recommends=0".into(),
            format!("APT::Sandbox::User={}", user.trim()),
            "Debug::NoLocking=1".into(),
            "Acquire::Retries=3".into(),
            // A mirror that is frozen, or a clock that is wrong, is no reason to do without: lists are signed.
            "Acquire::Check-Valid-Until=false".into(),
        ];
        if let Some(newest) = suites.last() {
            options.push(format!("APT::Default-Release={newest}"));
        }
        Ok(Self { options, archives })
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.current_dir(&self.archives).env("LC_ALL", "C");
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command
    }

    /// Downloads (and verifies) packages into `archives`, showing how far it is.
    fn download(&self, packages: &[Package], title: String) -> Result<()> {
        let step = Step::begin(title, 100);
        let mut command = self.get();
        command.args(["-qq", "-o", "APT::Status-Fd=1", "download"]).args(packages.iter().map(|package| &package.name));
        let mut child =
            child::bound(&command).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).lines() {
                if let Some(percent) = download_percent(&line?) {
                    step.at(percent);
                }
            }
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("cannot fetch packages: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        step.end();
        Ok(())
    }
}

/// What apt complained of, each thing once and on a line of its own; at most a few.
fn complaints(said: &str) -> String {
    const SHOWN: usize = 4;
    let mut kept: Vec<&str> = Vec::new();
    for line in said.lines() {
        // The first line may have our own words before apt's.
        let start = ["E: ", "W: "].iter().filter_map(|mark| line.find(mark)).min();
        let Some(complaint) = start.and_then(|at| line.get(at + 3..)) else { continue };
        if !complaint.starts_with("Some index files failed") && !kept.contains(&complaint) {
            kept.push(complaint);
        }
    }
    if kept.is_empty() {
        kept.push(said);
    }
    kept.iter().take(SHOWN).map(|complaint| format!("\n  {complaint}")).collect()
}

/// The whole percents of a line `dlstatus:ITEM:PERCENT:TEXT` of apt's status stream.
fn download_percent(line: &str) -> Option<u64> {
    let mut fields = line.strip_prefix("dlstatus:")?.split(':').skip(1);
    fields.next()?.split('.').next()?.parse().ok()
}

/// The address of the archive that holds `suite`: on the mirror `chosen`, or the one that apt is configured for
/// (`configured` has one address a line), or beside Debian's main archive there.
fn mirror(suite: &str, configured: &str, chosen: Option<&str>) -> Option<String> {
    const MAIN: &str = "/debian";
    let archive = if suite.ends_with("-security") { "/debian-security" } else { MAIN };
    let known = |archive: &str| {
        configured.lines().map(|line| line.trim().trim_end_matches('/')).find(|address| address.ends_with(archive))
    };
    if chosen.is_none()
        && let Some(address) = known(archive)
    {
        return Some(address.to_owned());
    }
    let base = chosen.or_else(|| known(MAIN))?.trim_end_matches('/');
    Some(format!("{}{archive}", base.strip_suffix(MAIN).unwrap_or(base)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_apts_plan() {
        let line = "'http://mirror/pool/b/busybox-static_1.35.0-4+b1_amd64.deb' busybox-static_1%3a1.35.0-4+b1_amd64.deb 1034272 SHA256:00";
        assert_eq!(Package::parse(line), Some(Package { name: "busybox-static".into(), bytes: 1_034_272 }));
        assert_eq!(Package::parse("Reading package lists..."), None);
    }

    #[test]
    fn an_unreachable_mirror_is_named_once_with_the_remedies() {
        let said = "apt-get failed (exit status: 100): E: Failed to fetch http://m/InRelease  Could not connect to m\n\
                    E: Failed to fetch http://m/InRelease  Could not connect to m\n\
                    E: Some index files failed to download. They have been ignored, or old ones used instead.";
        assert_eq!(complaints(said), "\n  Failed to fetch http://m/InRelease  Could not connect to m");
        assert_eq!(complaints("apt-get failed"), "\n  apt-get failed");
        let set = PackageSet {
            name: "x",
            purpose: "the moon",
            suites: &[],
            packages: &[],
            wanted: |_| true,
            remedy: "install a moon",
        };
        let error = set.cannot_fetch(said).to_string();
        for part in ["the moon cannot", "http://m/InRelease", MIRROR_VARIABLE, "--offline", "install a moon"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn reads_apts_progress() {
        assert_eq!(download_percent("dlstatus:2:40.7341:Retrieving file 2 of 2"), Some(40));
        assert_eq!(download_percent("pmstatus:x:1.0:Installing"), None);
    }

    #[test]
    fn mirror_comes_from_apts_configuration() {
        let found = |suite, configured, chosen| mirror(suite, configured, chosen).unwrap_or_default();
        let configured = "http://near/debian/\nhttp://near/debian-security/\nhttp://other/thing/\n";
        assert_eq!(found("bookworm", configured, None), "http://near/debian");
        assert_eq!(found("bookworm-security", configured, None), "http://near/debian-security");
        assert_eq!(found("bookworm-security", "http://near/debian\n", None), "http://near/debian-security");
        assert_eq!(mirror("bookworm", "http://archive/ubuntu/\n", None), None);
        assert_eq!(found("bookworm", "http://archive/ubuntu/\n", Some("http://mine")), "http://mine/debian");
        assert_eq!(found("bookworm-security", configured, Some("http://mine/debian")), "http://mine/debian-security");
    }
}
