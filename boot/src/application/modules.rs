//! The files that the configuration names.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use configuration::Reading;
use handoff::{Array, Module, Range};

use super::error::BootError;
use super::say;
use super::volume::Volume;

/// Reads each file once and leaves the list where the kernel finds it. A file that is absent is not in the list, and
/// the kernel reports it.
pub(super) fn read(reading: &Reading, volume: &mut Volume) -> Result<Array, BootError> {
    let mut modules = Vec::new();
    for file in reading.files() {
        if !volume.holds(&file.value) {
            say!("The volume has no file {}.", file.value);
            continue;
        }
        let data = volume.read(&file.value)?.range();
        let path: &'static str = String::leak(file.value.clone());
        modules.push(Module { path: Range { address: path.as_ptr() as u64, length: path.len() as u64 }, data });
    }
    let modules: &'static [Module] = Box::leak(modules.into_boxed_slice());
    Ok(Array { address: modules.as_ptr() as u64, count: modules.len() as u64 })
}
