//! Whether this computer's processor can run Postern's guests inside a machine of KVM.

use std::fs::{self, OpenOptions};
use std::path::Path;

use anyhow::{Result, bail};

/// Checks that KVM can be used and gives its machines virtualization of their own. `root` is where this computer's files
/// are: `/`.
///
/// # Errors
///
/// What is missing, and what to do.
pub(crate) fn check(root: &Path) -> Result<()> {
    let device = root.join("dev/kvm");
    if !device.exists() {
        bail!(
            "--accel kvm needs {}, which is not there: load the module kvm_intel or kvm_amd, enable virtualization in \
             the firmware's setup, or run without --accel kvm",
            device.display()
        );
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open(&device) {
        bail!(
            "{} cannot be opened ({error}): join the group that owns it, mostly kvm, and log in again",
            device.display()
        );
    }
    let modules = ["kvm_intel", "kvm_amd"];
    let nested = |module: &str| fs::read_to_string(root.join("sys/module").join(module).join("parameters/nested")).ok();
    let found: Vec<_> = modules.iter().filter_map(|module| Some((*module, nested(module)?))).collect();
    // Where KVM is part of the kernel there may be no parameter to look at: QEMU will tell.
    if found.is_empty() || found.iter().any(|(_, value)| matches!(value.trim(), "Y" | "1")) {
        return Ok(());
    }
    let (module, _) = &found[0];
    bail!(
        "{module} does not give its machines virtualization of their own: `modprobe -r {module} && modprobe {module} \
         nested=1`, or run without --accel kvm"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let root = std::env::temp_dir().join(format!("postern-nested-{}", std::process::id()));
        let says = |wanted: &str| {
            let error = check(&root).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        };
        says("dev/kvm, which is not there");
        fs::create_dir_all(root.join("dev")).unwrap();
        fs::write(root.join("dev/kvm"), "").unwrap();
        check(&root).unwrap();
        let parameters = root.join("sys/module/kvm_intel/parameters");
        fs::create_dir_all(&parameters).unwrap();
        fs::write(parameters.join("nested"), "N\n").unwrap();
        says("modprobe kvm_intel nested=1");
        fs::write(parameters.join("nested"), "Y\n").unwrap();
        check(&root).unwrap();
        fs::remove_dir_all(root).unwrap();
    }
}
