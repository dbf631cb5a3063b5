//! Everything that a boot needs, found and built.

use anyhow::Result;
use system_tests::tools::Tools;

use crate::command_line::Offline;
use crate::{compile, provision, workspace};

/// Finds or fetches the tools and builds what boots.
pub(crate) fn prepare(options: &Offline) -> Result<Tools> {
    if options.offline {
        // Nothing can be fetched in between: everything that is missing is named at once.
        provision::find_all(options, |_, _| ())?;
    }
    let qemu = provision::qemu(options)?;
    let linux = provision::linux(options)?;
    let images = compile::build(options)?;
    Ok(Tools { qemu, images, linux, root: workspace::root().to_path_buf(), output: workspace::output() })
}
