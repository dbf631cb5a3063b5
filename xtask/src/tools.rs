//! Everything that a boot needs, found and built.

use anyhow::Result;
use system_tests::tools::{Parts, Tools};

use crate::command_line::Offline;
use crate::{compile, provision, workspace};

/// Finds or fetches the tools and builds what boots.
pub(crate) fn prepare(options: &Offline) -> Result<Tools> {
    if options.offline {
        // Nothing can be fetched in between: everything that is missing is named at once.
        provision::find_all(options, |_, _| ())?;
    }
    let qemu = provision::qemu(options)?;
    Ok(Tools { qemu, bochs: None, parts: parts(options)?, output: workspace::output() })
}

/// The same for boots in Bochs.
pub(crate) fn prepare_with_bochs(options: &Offline) -> Result<Tools> {
    let tools = prepare(options)?;
    Ok(Tools { bochs: Some(provision::bochs(options)?), ..tools })
}

/// Finds or fetches and builds what lies on a boot volume.
pub(crate) fn parts(options: &Offline) -> Result<Parts> {
    let linux = provision::linux(options)?;
    Ok(Parts { images: compile::build(options)?, linux, root: workspace::root().to_path_buf() })
}
