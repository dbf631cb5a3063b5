//! Where the table's bytes come from.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

/// Where Linux shows this machine's own table, to root.
const OF_THIS_MACHINE: &str = "/sys/firmware/acpi/tables/DMAR";
/// No table is as long.
const LIMIT: u64 = 16 << 20;

/// The bytes of `file`, or of this machine's own table.
pub(super) fn read(file: Option<&Path>) -> Result<Vec<u8>> {
    let path = file.unwrap_or(Path::new(OF_THIS_MACHINE));
    let shown = path.display();
    let opened = File::open(path).map_err(|error| match (error.kind(), file) {
        (ErrorKind::NotFound, None) => anyhow!(
            "{shown} does not exist: this machine's firmware gives no DMAR table (no VT-d, or it is off in the \
             firmware's setup); name a FILE to look at another machine's"
        ),
        (ErrorKind::PermissionDenied, None) => anyhow!("{shown} may only be read by root; run this with sudo"),
        _ => anyhow!(error).context(format!("cannot open {shown}")),
    })?;
    let mut bytes = Vec::new();
    opened.take(LIMIT + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {shown}"))?;
    if bytes.len() as u64 > LIMIT {
        bail!("{shown} has more than {} MiB, which is no ACPI table; name the binary table itself", LIMIT >> 20);
    }
    Ok(bytes)
}
